"""Training data: records of faces in TFDS, and batches that are a function of (seed, step)."""
