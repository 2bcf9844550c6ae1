"""Requests: one frozen description of images, used by every interface. Imports no JAX."""

from instantid_jax.request.request import Request
from instantid_jax.request.settings import Settings

__all__ = ["Request", "Settings"]
