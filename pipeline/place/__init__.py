"""Where a dataset is written: a folder or a URL, held by a lease."""
