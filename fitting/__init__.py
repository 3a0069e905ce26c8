"""One image to one set of Gaussians: start, steps, relocation; on CPUs and GPUs."""
