"""What people reach for in Python: each one obvious call, from anything that is an image or a set."""
