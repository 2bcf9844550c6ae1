"""The small model, loaded once for the tests of the engine."""

import pytest

from instantid_jax import InstantIDPipeline
from tests.pipeline import small_model


@pytest.fixture(scope="session")
def pipe(tmp_path_factory) -> InstantIDPipeline:
    folder = small_model.write(tmp_path_factory.mktemp("cache"))
    return InstantIDPipeline.load(sdxl=folder, instantid=folder)
