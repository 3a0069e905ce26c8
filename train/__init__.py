"""Stage 2: a Vision Transformer on Gaussian sets."""
