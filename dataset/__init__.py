"""Datasets on disk: written, read, selected, verified, exported and described."""
