"""The small model, loaded once, and short calls of it."""

import pytest

from instantid_jax import InstantIDPipeline
from tests.pipeline import small_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> str:
    return small_model.write(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def pipe(folder) -> InstantIDPipeline:
    return InstantIDPipeline.load(sdxl=folder, instantid=folder)


@pytest.fixture(scope="session")
def sample(pipe):
    """Calls the pipeline, with defaults for all that a test does not speak of."""
    height, width = small_model.SIZE
    defaults = {
        "prompt": "a man in the rain",
        "face": small_model.person(0),
        "height": height,
        "width": width,
        "num_inference_steps": 3,
        "output_type": "latent",
    }

    def call(pipe=pipe, **arguments):
        return pipe(**defaults | arguments)

    return call
