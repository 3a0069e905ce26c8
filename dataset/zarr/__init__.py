"""The sets of a dataset as Zarr arrays."""
