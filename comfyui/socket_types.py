"""The types of the nodes' own sockets, and the menu they are in."""

from comfy_api.latest import io

CATEGORY = "InstantID/JAX"
# A `generation.Model`: loaded here, or a service.
ModelSocket = io.Custom("INSTANTID_JAX")
# An `instantid_jax.Face`.
FaceSocket = io.Custom("INSTANTID_JAX_FACE")
