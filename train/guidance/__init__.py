"""How the classifier's gradient steers Gaussians while they stay true to their images."""
