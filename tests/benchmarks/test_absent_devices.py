"""Unknown devices give one-line errors."""

import pytest

from benchmarks.absent_devices import TARGETS, absent_devices
from instantid_jax.errors import InputError


@pytest.mark.parametrize("topology", ["h200x", "v9:1x1", "v5e:a", "v5e:0x1"])
def test_unknown_topology_error_names_it(topology):
    with pytest.raises(InputError, match=f"topology '?{topology}'?[: ]") as refused:
        absent_devices(topology)
    assert "\n" not in str(refused.value)


def test_error_lists_the_gpu_targets():
    with pytest.raises(InputError, match="|".join(path.stem for path in TARGETS.iterdir())):
        absent_devices("gpu")
