"""Stage 1: images in, shards of fitted Gaussian sets out."""
