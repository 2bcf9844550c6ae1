"""Sample images and numbers of a training run, on records of its own."""
