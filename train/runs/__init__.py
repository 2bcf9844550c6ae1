"""Writing the folders of training runs, which `instantid_jax.runs` describes and reads."""
