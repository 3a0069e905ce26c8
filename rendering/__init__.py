"""The differentiable rasteriser: one equation, three backends."""
