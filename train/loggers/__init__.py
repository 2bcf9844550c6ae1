"""Loggers: destinations of the numbers and images of a training run."""
