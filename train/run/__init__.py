"""A run from start to end: loop, checkpoints, resume, metrics, pictures."""
