"""Reads PyTorch weights without torch: safetensors, `torch.save` archives, and shards of either.

The first bytes of a file determine its format, never its name.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

# Registers bfloat16 with numpy, which safetensors' numpy interface looks up by name.
import ml_dtypes
import numpy as np
import safetensors

from instantid_jax.errors import InputError
from instantid_jax.weights import float8
from instantid_jax.weights.pickles import quoted
from instantid_jax.weights.tensors import LazyTensor, Tensors
from instantid_jax.weights.torch_zips import TorchZip

SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".ckpt", ".pth", ".pt")

# safetensors' names (safetensors/src/tensor.rs: Dtype).
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}

# Prefix of the weights in whole training states, which also have those of the optimizer.
STATE = "state_dict."
# Prefixes of torch.nn.DataParallel and torch.compile.
WRAPPERS = ("module.", "_orig_mod.")

# safetensors/src/tensor.rs: MAX_HEADER_SIZE.
MAX_HEADER_BYTES = 100_000_000


class TensorFile(Mapping[str, np.ndarray]):
    """Tensors by name. Each access reads one tensor into new, contiguous memory.

    Attributes:
      path: the opened file, for messages.
      tensors: the unread tensors, in the order of the file.
      metadata: safetensors' `__metadata__` (strings), or a pickle's other leaves (numbers,
        strings, bytes, None) by dotted name.
    """

    def __init__(self, path: Path, tensors: Tensors, metadata: dict[str, Any]):
        self.path = path
        self.tensors = tensors
        self.metadata = metadata

    def names(self) -> list[str]:
        return list(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def dtype(self, name: str) -> np.dtype:
        return self.tensors[name].dtype

    def __getitem__(self, name: str) -> np.ndarray:
        return self.tensors[name].read()

    # Mapping's default would read the tensor.
    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def open_tensors(path: str | Path) -> TensorFile:
    """Opens `.safetensors`, `torch.save`'s zip archives, or the index file of shards of these.

    Flattens nested dicts to dotted names, as safetensors files have them: {'image_proj':
    {'latents': t}} becomes 'image_proj.latents'. Drops the prefixes of PyTorch's wrappers, such as
    `module.`, where all names have them, and what a training state has besides its `state_dict`.
    Multiplies float8 weights with the scales next to them.

    Raises:
      InputError: if `path` is missing, has another format, is damaged, would need to run code, or
        has tensors that NumPy cannot represent.
    """
    path = Path(path)
    head = _head(path)
    file = _open_index(path) if _is_json(head) else _open_weights(path, head)
    tensors = float8.unscaled(_unwrapped(file.tensors), file.path)
    return TensorFile(file.path, tensors, file.metadata)


def _unwrapped(tensors: Tensors) -> Tensors:
    state = {n.removeprefix(STATE): t for n, t in tensors.items() if n.startswith(STATE)}
    tensors = state or tensors
    for wrapper in WRAPPERS:
        if tensors and all(name.startswith(wrapper) for name in tensors):
            return _unwrapped({n.removeprefix(wrapper): tensor for n, tensor in tensors.items()})
    return tensors


def _open_weights(path: Path, head: bytes) -> TensorFile:
    if _is_safetensors(head):
        return _open_safetensors(path)
    if head.startswith(b"PK\x03\x04"):
        archive = TorchZip(path)
        tensors = {
            name: LazyTensor(tensor.shape, tensor.storage.dtype, partial(archive.read, tensor))
            for name, tensor in archive.tensors.items()
        }
        return TensorFile(path, tensors, archive.leaves)
    raise InputError(f"{path}: {_diagnosis(head)}")


def _head(path: Path) -> bytes:
    try:
        if path.is_dir():
            inside = sorted(p.name for p in path.iterdir() if p.name.endswith(SUFFIXES))
            named = f"one of {', '.join(inside[:4])}" if inside else "it has none"
            raise InputError(f"{path}: a folder, expected a weights file in it ({named})")
        with path.open("rb") as file:
            return file.read(512)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; expected weights there") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected weights") from error


def _is_json(head: bytes) -> bool:
    return head.lstrip().startswith(b"{") and not _is_safetensors(head)


def _is_safetensors(head: bytes) -> bool:
    # The length of the header, then the header, in JSON. Read as a length, any text is larger.
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= MAX_HEADER_BYTES


def _diagnosis(head: bytes) -> str:
    text = head.lstrip().lower()
    if not head:
        return "an empty file, expected weights; download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights it stands for; run `git lfs pull` in its folder"
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page, expected weights; the download went wrong, fetch the file itself"
    if text.startswith(b"{"):
        return "a JSON file, expected weights; name the weights file itself"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return (
            "a bare pickle, as torch wrote before 1.6, which is not supported; save it again: "
            "torch.save(torch.load(old, map_location='cpu', weights_only=True), new)"
        )
    if head.startswith(b"PK"):
        return "an empty or split zip archive, expected weights; download or copy it again"
    return (
        f"neither safetensors nor a torch.save archive (it begins with {head[:8]!r}); "
        "expected PyTorch weights"
    )


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="numpy")
        metadata = dict(file.metadata() or {})
        tensors: Tensors = {}
        eights: dict[str, tuple[int, ...]] = {}
        refused = []
        names = file.offset_keys()
        for name in names:
            described = file.get_slice(name)
            code, shape = described.get_dtype(), tuple(described.get_shape())
            if code in DTYPES:
                tensors[name] = LazyTensor(shape, DTYPES[code], partial(file.get_tensor, name))
            elif code in float8.DTYPES:
                eights[name] = shape
            else:
                refused.append(f"{quoted(name)} is {code}")
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path}: damaged or cut short safetensors file of {path.stat().st_size} bytes "
            f"({quoted(error)}); download or copy it again"
        ) from error
    if refused:
        raise InputError(
            f"{path}: {len(refused)} of {len(refused) + len(tensors)} tensors have a dtype that is "
            f"not supported ({', '.join(refused[:3])}); use the float16, bfloat16 or float32 file"
        )
    if eights:
        tensors |= float8.read_float8(path, eights)
        tensors = {name: tensors[name] for name in names}
    return TensorFile(path, tensors, metadata)


def _open_index(path: Path) -> TensorFile:
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
        promised = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: {_diagnosis(b'{')} (a shards' index has a 'weight_map')"
        ) from error
    shards = {shard: path.parent / shard for shard in sorted(set(promised.values()))}
    outside = [shard for shard in shards if Path(shard).name != shard]
    if outside:
        raise InputError(
            f"{path}: names a shard outside its folder ({quoted(outside[0])}); download the index "
            "again"
        )
    missing = [name for name, shard in shards.items() if not shard.is_file()]
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(shards)} shards are missing "
            f"({', '.join(missing[:4])}); put them next to it"
        )
    tensors: Tensors = {}
    metadata: dict[str, Any] = {}
    holder: dict[str, str] = {}
    for shard, shard_path in shards.items():
        opened = _open_weights(shard_path, _head(shard_path))
        for name, tensor in opened.tensors.items():
            if name in tensors:
                raise InputError(
                    f"{path}: {quoted(name)} is in two shards, {holder[name]} and {shard}; "
                    "download the index and the shards again, from one place"
                )
            tensors[name], holder[name] = tensor, shard
        metadata |= opened.metadata
    astray = [name for name, shard in promised.items() if holder.get(name) != shard]
    if astray:
        raise InputError(
            f"{path}: {len(astray)} tensors are not in the shard it names ({quoted(astray[0])} in "
            f"{promised[astray[0]]}); download the index and the shards again, from one place"
        )
    return TensorFile(path, tensors, metadata)
