"""Datasets behind URLs: copied there and back, and kept in a cache."""
