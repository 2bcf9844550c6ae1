"""ComfyUI nodes that make images of a person with instantid_jax, in process or by its service."""

import os

# JAX would take three quarters of a GPU's memory at once, and ComfyUI's own models need some. JAX
# reads this when it first uses the GPU.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from comfy_api.latest import ComfyExtension, io

from .face_nodes import AnalyzeFace, KeypointsPreview
from .generate_node import Generate
from .model_nodes import Connect, Load

NODES: list[type[io.ComfyNode]] = [Load, Connect, AnalyzeFace, KeypointsPreview, Generate]


class InstantIDExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)


async def comfy_entrypoint() -> ComfyExtension:
    """ComfyUI calls this to find the nodes."""
    return InstantIDExtension()
