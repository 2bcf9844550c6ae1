"""The nodes with a stand-in for ComfyUI, and values for all their inputs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from instantid_jax import embedded
from tests.comfyui import comfy_stand_in

# There is nothing in it.
MODELS = Path(__file__).parent / "models"
# Before any test imports the nodes.
comfy_stand_in.install(MODELS)


@pytest.fixture
def host() -> comfy_stand_in.Host:
    """The stand-in's state, as new."""
    return comfy_stand_in.HOST.reset()


@pytest.fixture
def models(tmp_path) -> Iterator[Path]:
    """ComfyUI's folder of models, empty."""
    comfy_stand_in.install(tmp_path / "models")
    yield tmp_path / "models"
    comfy_stand_in.install(MODELS)


def defaults(node: type) -> dict[str, Any]:
    """The values of a node's widgets as ComfyUI first shows them."""
    inputs = node.define_schema().inputs
    return {each.id: each.options["default"] for each in inputs if "default" in each.options}


@pytest.fixture(scope="session")
def miniature() -> Iterator[Any]:
    """The embedded model, from the Load node."""
    from comfyui.model_nodes import Load
    from comfyui.pipelines import unload

    (model,) = Load.execute(**defaults(Load)).args
    yield model
    unload()


@pytest.fixture
def generate() -> Callable[..., tuple[torch.Tensor, str]]:
    """Runs the Generate node; returns the images [B, H, W, 3] and the provenance."""
    from comfyui.generate_node import Generate

    def call(instantid, **inputs):
        given = defaults(Generate) | {"prompt": "a cartoon"} | inputs
        return Generate.execute(instantid, **given).args

    return call


@pytest.fixture(scope="session")
def portrait() -> torch.Tensor:
    """A drawn portrait as an IMAGE [1, H, W, 3]."""
    with Image.open(embedded.PORTRAIT) as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255)[None]
