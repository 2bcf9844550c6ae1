"""Data and checkpoints in object stores, through fsspec."""
