import pytest

from instantid_jax.face.analysis import FaceAnalyzer
from tests.face import synthetic_pack


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """A folder with the synthetic face pack."""
    return synthetic_pack.write_pack(tmp_path_factory.mktemp("packs") / "synthetic")


@pytest.fixture(scope="session")
def analyzer(pack):
    return FaceAnalyzer(pack)
