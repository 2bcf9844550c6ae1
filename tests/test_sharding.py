"""Shardings of parameters on a mesh."""

import re

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from instantid_jax.errors import InputError
from instantid_jax.sharding import TRAINING_AXES, param_spec, parse_sampling_mesh, sampling_mesh

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
def test_splits_parameters_along_another_axis_than_the_last(shape, spec):
    assert param_spec("any.kernel", shape, MESH) == spec


def test_tensor_and_fsdp_split_different_axes():
    mesh = AbstractMesh((1, 4, 2), TRAINING_AXES)
    split_by_output = param_spec("a.to_q.kernel", (640, 640), mesh)
    split_by_input = param_spec("a.to_out.0.kernel", (640, 640), mesh)
    assert split_by_output == PartitionSpec("fsdp", "tensor")
    assert split_by_input == PartitionSpec("tensor", "fsdp")


def test_sampling_mesh_uses_the_first_devices():
    mesh = parse_sampling_mesh("rows=2, data=2")
    assert dict(mesh.shape) == {"data": 2, "guidance": 1, "rows": 2}
    assert mesh.devices.ravel().tolist() == jax.devices()[:4]


@pytest.mark.parametrize(
    "text", ["", "data", "data=", "data=x", "fsdp=2", "data=2;rows=2", "data=-2"]
)
def test_rejects_text_that_does_not_name_a_mesh(text):
    with pytest.raises(InputError, match=f"^mesh {re.escape(repr(text))}: expected sizes of data"):
        parse_sampling_mesh(text)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 1, 1), "expected sizes of 1 or more"),
        ((1, 3, 1), "guidance 1 or 2"),
        ((4, 2, 2), "needs 16 devices, but there are 8"),
    ],
)
def test_rejects_impossible_sampling_meshes(sizes, message):
    with pytest.raises(InputError, match=message):
        sampling_mesh(*sizes)
