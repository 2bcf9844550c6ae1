"""Conversion of weights between PyTorch's files and ours: `python -m convert`."""
