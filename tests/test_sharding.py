"""Where parameters lie on a mesh."""

import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from instantid_jax.sharding import TRAINING_AXES, param_spec

MESH = AbstractMesh((2, 16, 1), TRAINING_AXES)


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((1280, 10240), PartitionSpec("fsdp", None)),
        ((3, 3, 640, 1280), PartitionSpec(None, None, "fsdp", None)),
        # Only the last axis can be divided.
        ((3, 3, 10, 1280), PartitionSpec(None, None, None, "fsdp")),
        ((3, 3, 100, 100), PartitionSpec(None, None, None, None)),
        ((1280,), PartitionSpec()),
    ],
    ids=str,
)
def test_parameters_are_split_along_another_axis_than_the_last(shape, spec):
    assert param_spec("any.kernel", shape, MESH) == spec


def test_tensor_takes_its_axis_and_fsdp_what_is_left():
    mesh = AbstractMesh((1, 4, 2), TRAINING_AXES)
    split_by_output = param_spec("a.to_q.kernel", (640, 640), mesh)
    split_by_input = param_spec("a.to_out.0.kernel", (640, 640), mesh)
    assert split_by_output == PartitionSpec("fsdp", "tensor")
    assert split_by_input == PartitionSpec("tensor", "fsdp")
