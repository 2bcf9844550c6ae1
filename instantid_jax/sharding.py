"""Meshes, and the shardings of parameters and batches by name and shape."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from instantid_jax.errors import InputError
from instantid_jax.stacks import in_block, is_stacked

TRAINING_AXES = ("data", "fsdp", "tensor")
# The batch is sharded over these.
BATCH_AXES = ("data", "fsdp")
# Images, the two halves of guidance, and horizontal slices of an image. The last communicate
# most, so they are placed on neighbors.
SAMPLING_AXES = ("data", "guidance", "rows")
# Sharding of the networks' batch in sampling; under guidance all negative rows come first.
HALVES = ("guidance", "data")
# Smaller parameters are replicated: gathering them costs more than storing them.
SMALLEST_SHARDED = 2**16

# Linear layers in pairs (Shoeybi et al. 2019, Megatron-LM): the first is split by its outputs, the
# second by its inputs. If `tensor` divides the heads, attention needs no communication; GEGLU,
# which halves its outputs, does.
SPLIT_BY_OUTPUT = ("to_q", "to_k", "to_v", "to_k_ip", "to_v_ip", "net.0.proj")
SPLIT_BY_INPUT = ("to_out.0", "net.2")


def training_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` x `tensor` devices.

    Args:
      shape: three sizes; -1 for `data` takes the remaining devices.
    Raises:
      InputError: if the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    data, fsdp, tensor = shape
    if data == -1:
        data = max(len(devices) // (fsdp * tensor), 1)
    if data * fsdp * tensor != len(devices):
        raise InputError(
            f"mesh {data} x {fsdp} x {tensor} (data, fsdp, tensor) needs {data * fsdp * tensor} "
            f"devices, but there are {len(devices)}: set sizes that multiply to it, such as "
            "--mesh.data -1 --mesh.fsdp 1 --mesh.tensor 1"
        )
    # Auto lets the compiler shard intermediates; with Explicit axes, JAX's default, every layer
    # would need annotations.
    return jax.make_mesh((data, fsdp, tensor), TRAINING_AXES, (AxisType.Auto,) * 3, devices=devices)


def sampling_mesh(
    data: int = 1,
    guidance: int = 1,
    rows: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of the first `data` x `guidance` x `rows` devices.

    Args:
      data: number of images at a time.
      guidance: 2 computes both halves of classifier-free guidance in parallel.
      rows: number of horizontal slices of each image.
    Raises:
      InputError: if a size is invalid, or there are too few devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(SAMPLING_AXES, (data, guidance, rows), strict=True))
    shown = ",".join(f"{name}={size}" for name, size in sizes.items())
    if min(sizes.values()) < 1 or guidance > 2:
        raise InputError(f"mesh {shown}: expected sizes of 1 or more, and guidance 1 or 2")
    count = math.prod(sizes.values())
    if count > len(devices):
        raise InputError(f"mesh {shown} needs {count} devices, but there are {len(devices)}")
    return jax.make_mesh(
        tuple(sizes.values()), SAMPLING_AXES, (AxisType.Auto,) * 3, devices=devices[:count]
    )


def mesh_text(mesh: Mesh) -> str:
    """A mesh in the form that `parse_sampling_mesh` reads: "data=4,guidance=2,rows=1"."""
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def parse_sampling_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Parses a mesh such as "data=4,guidance=2"; omitted axes have size 1.

    Args:
      devices: as for `sampling_mesh`.
    Raises:
      InputError: as `sampling_mesh`, and for any other text.
    """
    pairs = [part.partition("=")[::2] for part in text.split(",")]
    sizes = {name.strip(): int(size) for name, size in pairs if size.strip().isdecimal()}
    if len(sizes) != len(pairs) or not sizes.keys() <= set(SAMPLING_AXES):
        raise InputError(
            f"mesh {text!r}: expected sizes of {', '.join(SAMPLING_AXES)}, such as "
            "data=4,guidance=2"
        )
    return sampling_mesh(**sizes, devices=devices)


def check_shares(
    mesh: Mesh, size: tuple[int, int], batch: int, guidance: bool, levels: int
) -> None:
    """Checks that a batch divides over a sampling mesh.

    Args:
      size: (height, width) of the images.
      batch: number of images.
      levels: number of resolutions in the UNet, each half of the one before.
    Raises:
      InputError: if it does not.
    """
    data, halves, rows = (mesh.shape[axis] for axis in SAMPLING_AXES)
    if batch % data:
        raise InputError(
            f"{batch} images on a mesh of data={data}: expected a multiple of {data}; make more "
            "at a time, or use a smaller mesh"
        )
    if halves > 1 and not guidance:
        raise InputError(
            "guidance_scale up to 1 leaves a mesh of guidance=2 no second half: use a mesh of "
            "guidance=1"
        )
    # The smallest feature maps of the UNet are split as well.
    unit = rows * 8 * 2 ** (levels - 1)
    if rows > 1 and size[0] % unit:
        raise InputError(
            f"height {size[0]} on a mesh of rows={rows}: expected a multiple of {unit}"
        )


def param_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The sharding of one parameter: over `tensor` by its name, over `fsdp` by its largest axis.

    The last axis is the last choice: a TPU pads it to 128 elements and cannot scatter over it, so
    gradients would be all-reduced instead of reduce-scattered. A stack of blocks is sharded as each
    of them.
    """
    if is_stacked(name):
        return PartitionSpec(None, *param_spec(in_block(name, 0), shape[1:], mesh))
    axes: list[str | None] = [None] * len(shape)
    if math.prod(shape) < SMALLEST_SHARDED:
        return PartitionSpec()
    module = name.rpartition(".")[0]
    if mesh.shape["tensor"] > 1 and name.endswith(".kernel") and len(shape) == 2:
        axis = (
            1
            if module.endswith(SPLIT_BY_OUTPUT)
            else 0
            if module.endswith(SPLIT_BY_INPUT)
            else None
        )
        if axis is not None and shape[axis] % mesh.shape["tensor"] == 0:
            axes[axis] = "tensor"
    if mesh.shape["fsdp"] > 1:
        last = len(shape) - 1
        for axis in sorted(range(len(shape)), key=lambda axis: (axis == last, -shape[axis])):
            if axes[axis] is None and shape[axis] % mesh.shape["fsdp"] == 0:
                axes[axis] = "fsdp"
                break
    return PartitionSpec(*axes)


def shard_params(
    shapes: Mapping[str, jax.ShapeDtypeStruct], mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of each parameter."""
    return {
        name: NamedSharding(mesh, param_spec(name, tuple(value.shape), mesh))
        for name, value in shapes.items()
    }


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Shards the first axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_images(x: jax.Array) -> jax.Array:
    """Constrains [B, H, W, C] to be sharded over `data` and, by height, over `rows`.

    This and the next three do nothing unless the context's mesh is a sampling mesh.
    """
    return _split(x, PartitionSpec("data", "rows"))


def split_maps(x: jax.Array) -> jax.Array:
    """Does the same for feature maps [R, H, W, C] with the rows of both halves of guidance."""
    return _split(x, PartitionSpec(HALVES, "rows"))


def split_halves(x: jax.Array) -> jax.Array:
    """Does the same for [R, ...] without a height axis."""
    return _split(x, PartitionSpec(HALVES))


def split_tiles(x: jax.Array) -> jax.Array:
    """Does the same for tiles of images [B, H, W, C], whose rows may not divide over `rows`."""
    return _split(x, PartitionSpec("data"))


def _split(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, spec) if mesh.axis_names == SAMPLING_AXES else x
