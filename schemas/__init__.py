"""What both stages agree on: the fields of a Gaussian, rows, manifest, shard files, reading them back."""
