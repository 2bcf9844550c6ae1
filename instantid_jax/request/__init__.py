"""What images are asked for: one frozen description, used by every door. Imports no JAX."""

from instantid_jax.request.request import Request
from instantid_jax.request.settings import Settings

__all__ = ["Request", "Settings"]
