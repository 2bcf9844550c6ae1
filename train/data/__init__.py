"""Training data: TFDS records of faces, and batches that are a function of (seed, step)."""
