"""Writes the folders of training runs; `instantid_jax.runs` defines and reads them."""
