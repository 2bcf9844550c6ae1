"""Meshes, and where parameters and batches lie on them, decided from names and shapes alone."""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from instantid_jax.errors import InputError

TRAINING_AXES = ("data", "fsdp", "tensor")
# The batch lies over these.
BATCH_AXES = ("data", "fsdp")
# Pictures; the two halves of guidance; parts of a picture, one below the other. The last exchange
# most, so they come to lie on neighbours.
SAMPLING_AXES = ("data", "guidance", "rows")
# The networks' batch in sampling: under guidance all negative rows come first.
HALVES = ("guidance", "data")
# Below this many numbers a parameter is replicated: gathering it costs more than holding it.
SMALLEST_SHARDED = 2**16

# Linear layers in pairs (Shoeybi et al. 2019, Megatron-LM): the first is split by its outputs, the
# second by its inputs. Where `tensor` divides the heads, attention stays on its device; GEGLU,
# which cuts its outputs in half, does not.
SPLIT_BY_OUTPUT = ("to_q", "to_k", "to_v", "to_k_ip", "to_v_ip", "net.0.proj")
SPLIT_BY_INPUT = ("to_out.0", "net.2")


def training_mesh(shape: Sequence[int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` x `tensor` devices.

    Args:
      shape: three sizes; -1 for `data` takes what is left.
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
            f"devices, but there are {len(devices)}"
        )
    # Auto: the compiler places what is between; Explicit axes, JAX's default, would need every
    # layer annotated.
    return jax.make_mesh((data, fsdp, tensor), TRAINING_AXES, (AxisType.Auto,) * 3, devices=devices)


def sampling_mesh(
    data: int = 1,
    guidance: int = 1,
    rows: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh of `data` x `guidance` x `rows` of the devices, the first ones.

    Args:
      data: so many pictures at a time.
      guidance: 2 works on the two halves of classifier-free guidance at once.
      rows: so many parts of each picture, one below the other.
    Raises:
      InputError: if a size cannot be used, or there are fewer devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = dict(zip(SAMPLING_AXES, (data, guidance, rows), strict=True))
    told = ",".join(f"{name}={size}" for name, size in sizes.items())
    if min(sizes.values()) < 1 or guidance > 2:
        raise InputError(f"mesh {told}: expected sizes of 1 or more, and guidance 1 or 2")
    count = math.prod(sizes.values())
    if count > len(devices):
        raise InputError(f"mesh {told} needs {count} devices, but there are {len(devices)}")
    return jax.make_mesh(
        tuple(sizes.values()), SAMPLING_AXES, (AxisType.Auto,) * 3, devices=devices[:count]
    )


def mesh_text(mesh: Mesh) -> str:
    """What `parse_sampling_mesh` reads: "data=4,guidance=2,rows=1"."""
    return ",".join(f"{name}={size}" for name, size in mesh.shape.items())


def parse_sampling_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that a text such as "data=4,guidance=2" names; what it leaves out is 1.

    Args:
      devices: as of `sampling_mesh`.
    Raises:
      InputError: as `sampling_mesh`, and if it is no such text.
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
    """Refuses what cannot be shared out among a sampling mesh's devices.

    Args:
      size: (height, width) of the pictures, of which there are `batch`.
      levels: of the UNet, each of which halves its maps, but the first.
    """
    data, halves, rows = (mesh.shape[axis] for axis in SAMPLING_AXES)
    if batch % data:
        raise InputError(
            f"{batch} pictures on a mesh of data={data}: expected a multiple of {data}; make more "
            "at a time, or use a smaller mesh"
        )
    if halves > 1 and not guidance:
        raise InputError(
            "guidance_scale up to 1 leaves a mesh of guidance=2 no second half: use a mesh of "
            "guidance=1"
        )
    # The smallest maps of the UNet are divided, too.
    unit = rows * 8 * 2 ** (levels - 1)
    if rows > 1 and size[0] % unit:
        raise InputError(
            f"height {size[0]} on a mesh of rows={rows}: expected a multiple of {unit}"
        )


def param_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Where one parameter lies: over `tensor` by its place, over `fsdp` by its largest axis.

    The last axis is taken only where no other can be: a TPU pads it to 128 numbers, and cannot
    scatter over it, so that gradients would be summed everywhere in place of scattered.
    """
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
    """A sharding for each parameter of a flat dictionary."""
    return {
        name: NamedSharding(mesh, param_spec(name, tuple(value.shape), mesh))
        for name, value in shapes.items()
    }


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis over `data` and `fsdp` together."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def split_pictures(x: jax.Array) -> jax.Array:
    """Tells the compiler that [B, H, W, C] lies over `data` and, by its height, over `rows`.

    As the other two it does nothing but on a sampling mesh that is set.
    """
    return _split(x, PartitionSpec("data", "rows"))


def split_maps(x: jax.Array) -> jax.Array:
    """The same of feature maps [R, H, W, C], whose rows are those of both halves of guidance."""
    return _split(x, PartitionSpec(HALVES, "rows"))


def split_halves(x: jax.Array) -> jax.Array:
    """The same of [R, ...] without height."""
    return _split(x, PartitionSpec(HALVES))


def _split(x: jax.Array, spec: PartitionSpec) -> jax.Array:
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, spec) if mesh.axis_names == SAMPLING_AXES else x
