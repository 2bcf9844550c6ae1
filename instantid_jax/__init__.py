"""InstantID in JAX and Flax."""
