"""Reads the pickle inside a PyTorch checkpoint as data; imports and calls nothing from it.

`pickletools` decodes the opcodes; this file interprets a fixed list of them. A pickle names
functions and classes as (module, name). `calls` below and the tables of `pickle_names` list every
name that a dict of tensors needs; any other name is refused before use. Each listed name maps to
one of our own methods on plain values, so a hostile file has nothing to run.

Overriding `find_class` of `pickle.Unpickler` is not enough. BUILD sets attributes on any object on
the stack, our stand-ins included; EXT opcodes may bypass `find_class`; a four-byte memo index
allocates 16 bytes for each lower index, 64 GB; and hashing a tuple nested millions deep as a dict
key overflows the C stack. Here the stack holds only plain values, the memo is a dict, and keys are
strings and numbers.
"""

import dataclasses
import math
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.weights.pickle_names import (
    DTYPES,
    KNOWN,
    NUMPY_SCALARS,
    STORAGES,
    Name,
    Storage,
    Tensor,
)

# The pickle of a full SDXL checkpoint of 2515 tensors has 0.6 MB and 100,000 opcodes.
MAX_BYTES = 32 * 2**20
MAX_OPCODES = 2_000_000
MAX_LEAVES = 200_000
MAX_DEPTH = 64
MAX_NAME = 256
# An expanded tensor (stride 0) may have more elements than its storage, up to this many bytes.
MAX_EXPANDED_BYTES = 64 * 2**20

ADVICE = (
    "expected only tensors, numbers, strings and containers; if you trust the source of the file, "
    "save its tensors as .safetensors"
)

PLAIN = (str, int, float, bytes, bool, type(None))


def load(data: bytes, path: object) -> Any:
    """The object described by `data` (at most `MAX_BYTES`), with `Tensor`s for its tensors.

    Raises:
      InputError: with `path` in it, for a damaged pickle, and for a name or opcode that is not
        allowed.
    """
    try:
        return _Machine(data, path).run()
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(
            f"{path}: damaged pickle ({quoted(error)}); download or copy the file again"
        ) from error


def flatten(tree: Any, path: object) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and other leaves by dotted name: {'a': {'b': t}} gives 'a.b'; lists count from 0.

    Raises:
      InputError: if `tree` is not a dict, if two leaves have the same name, and for cycles.
    """
    if not isinstance(tree, dict):
        raise InputError(
            f"{path}: holds a single {type(tree).__name__}, expected a dict of tensors; save a dict"
        )
    tensors, leaves = {}, {}
    pending = [("", 0, tree)]
    while pending:
        name, depth, node = pending.pop()
        # Also bounds the memory of names when a dict is reached many times.
        if len(name) > MAX_NAME:
            raise InputError(f"{path}: a name of {len(name)} letters, {quoted(name)}; {ADVICE}")
        if isinstance(node, dict | list | tuple):
            if depth == MAX_DEPTH:
                raise InputError(f"{path}: nested more than {MAX_DEPTH} deep, or in itself")
            items = node.items() if isinstance(node, dict) else enumerate(node)
            prefix = f"{name}." if depth else ""
            # Reversed, because the stack is last in, first out: names keep the file's order.
            pending += [(f"{prefix}{key}", depth + 1, value) for key, value in items][::-1]
        elif name in tensors or name in leaves:
            raise InputError(f"{path}: two entries are called {quoted(name)} once flattened")
        elif isinstance(node, Tensor):
            tensors[name] = node
        elif isinstance(node, PLAIN):
            leaves[name] = node
        else:
            raise InputError(f"{path}: {quoted(name)} is a bare {type(node).__name__}; {ADVICE}")
        if len(pending) + len(tensors) + len(leaves) > MAX_LEAVES:
            raise InputError(f"{path}: more than {MAX_LEAVES} entries; {ADVICE}")
    return tensors, leaves


def quoted(value: object) -> str:
    """Text from a file, escaped and shortened for a message."""
    text = ascii(str(value))
    return text if len(text) <= 200 else f"{text[:197]}..."


class _Machine:
    """Interprets one pickle. The stack holds plain values, tensors, storages, names and dtypes."""

    def __init__(self, data: bytes, path: object):
        self.data = data
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[object, Any] = {}
        self.encoded = 0
        self.calls: dict[Name, Callable[..., Any]] = {
            Name("collections", "OrderedDict"): self.empty_dict,
            Name("torch._utils", "_rebuild_tensor_v2"): self.tensor,
            Name("torch._utils", "_rebuild_tensor_v3"): self.tensor_of_bytes,
            Name("torch._utils", "_rebuild_parameter"): self.parameter,
            Name("torch", "Size"): self.size,
            Name("_codecs", "encode"): self.encode,
            Name("numpy", "dtype"): self.numpy_dtype,
            Name("numpy.core.multiarray", "scalar"): self.numpy_scalar,
            Name("numpy._core.multiarray", "scalar"): self.numpy_scalar,
        }

    def refusal(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}; {ADVICE}")

    def run(self) -> Any:
        stack, memo = self.stack, self.memo
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.data)):
            if count == MAX_OPCODES:
                raise self.refusal(f"its pickle has more than {MAX_OPCODES} opcodes")
            match opcode.name:
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case (
                    "BININT" | "BININT1" | "BININT2" | "LONG1" | "LONG4" | "BINFLOAT"
                    | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
                    | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
                ):  # fmt: skip
                    stack.append(argument)
                case "NONE":
                    stack.append(None)
                case "NEWTRUE":
                    stack.append(True)
                case "NEWFALSE":
                    stack.append(False)
                case "MARK":
                    self.marks.append(len(stack))
                case "TUPLE":
                    stack.append(tuple(self.pop_to_mark()))
                case "EMPTY_TUPLE":
                    stack.append(())
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    size = int(opcode.name[-1])
                    stack[-size:] = [tuple(stack[-size:])]
                case "EMPTY_LIST":
                    stack.append([])
                case "APPEND":
                    self.append([stack.pop()])
                case "APPENDS":
                    self.append(self.pop_to_mark())
                case "EMPTY_DICT":
                    stack.append({})
                case "SETITEM":
                    value = stack.pop()
                    self.set_items([stack.pop(), value])
                case "SETITEMS":
                    self.set_items(self.pop_to_mark())
                case "GLOBAL":
                    stack.append(self.named(*str(argument).split(" ", 1)))
                case "STACK_GLOBAL":
                    name = stack.pop()
                    stack.append(self.named(stack.pop(), name))
                case "BINPERSID":
                    stack.append(self.storage(stack.pop()))
                case "REDUCE":
                    arguments = stack.pop()
                    stack.append(self.call(stack.pop(), arguments))
                case "BUILD":
                    self.build(stack.pop())
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    return stack.pop()
                case other:
                    raise self.refusal(f"its pickle uses the opcode {other}")
        raise ValueError("no STOP")

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def append(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise ValueError(f"items for a {type(self.stack[-1]).__name__}")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict) or len(items) % 2:
            raise ValueError(f"keys and values for a {type(self.stack[-1]).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 2**63):
                raise self.refusal(f"a key of a dict is a {type(key).__name__}")
            self.stack[-1][key] = value

    def named(self, module: object, name: object) -> Name:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError("a name that is not a string")
        found = Name(module, name)
        key = (found.module, found.name)
        if found in self.calls or key in STORAGES or key in DTYPES:
            return found
        known = KNOWN.get(key)
        shown = quoted(f"{module}.{name}") + (f" ({known})" if known else "")
        raise self.refusal(f"its pickle names {shown}, which is refused")

    def storage(self, identity: object) -> Storage:
        match identity:
            case ("storage", Name(module, name), str(key), str(), int(elements)) if elements >= 0:
                dtype = STORAGES.get((module, name))
                if dtype is not None and len(key) <= MAX_NAME:
                    return Storage(key, dtype, elements)
        raise ValueError("not a storage")

    def call(self, function: object, arguments: object) -> Any:
        if not isinstance(function, Name) or function not in self.calls:
            raise self.refusal(f"its pickle calls a {type(function).__name__}")
        if not isinstance(arguments, tuple):
            raise ValueError(f"arguments of {function.name}")
        try:
            return self.calls[function](*arguments)
        except TypeError as error:  # wrong number or type of arguments
            raise ValueError(f"{function.name}: {error}") from error

    def build(self, state: object) -> None:
        """Drops attributes of a dict (a state dict's `_metadata`); checks those of a dtype."""
        target = self.stack[-1]
        if isinstance(target, np.dtype):
            if not isinstance(state, tuple) or state[1] not in ("<", "|"):
                raise ValueError("not a little-endian dtype")
        elif not isinstance(target, dict) or not isinstance(state, dict):
            raise self.refusal(f"its pickle sets attributes of a {type(target).__name__}")

    def empty_dict(self) -> dict[Any, Any]:
        return {}

    def tensor(
        self, storage, offset, shape, strides, requires_grad, hooks, metadata=None
    ) -> Tensor:
        if (
            not isinstance(storage, Storage)
            or not len(shape) == len(strides) <= 64
            or not all(type(n) is int and 0 <= n < 2**62 for n in (offset, *shape, *strides))
        ):
            raise ValueError("not a tensor")
        if metadata:
            raise self.refusal("a tensor is a conjugate or negative view")
        tensor = Tensor(storage, offset, tuple(shape), tuple(strides))
        if offset + tensor.extent > storage.elements:
            raise self.refusal(
                f"a tensor of shape {shape}, strides {strides} and offset {offset} reaches beyond "
                f"its storage of {storage.elements} elements"
            )
        limit = max(storage.elements, MAX_EXPANDED_BYTES // storage.dtype.itemsize)
        if math.prod(shape) > limit:
            raise self.refusal(
                f"a tensor of shape {shape} repeats a storage of {storage.elements} elements"
            )
        return tensor

    def tensor_of_bytes(
        self, storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None
    ) -> Tensor:
        """A tensor of a dtype for which torch has no typed storage; all of ours take one byte."""
        known = DTYPES.get((dtype.module, dtype.name)) if isinstance(dtype, Name) else None
        if known is None or not isinstance(storage, Storage) or storage.dtype != np.uint8:
            raise ValueError("not a tensor of bytes")
        typed = dataclasses.replace(storage, dtype=known)
        return self.tensor(typed, offset, shape, strides, requires_grad, hooks, metadata)

    def parameter(self, tensor, requires_grad, hooks) -> Tensor:
        if not isinstance(tensor, Tensor):
            raise ValueError("not a parameter")
        return tensor

    def size(self, shape) -> tuple[int, ...]:
        if not isinstance(shape, tuple):
            raise ValueError("not a size")
        return shape

    def encode(self, text, encoding) -> bytes:
        """Protocol 2 writes bytes as a call to `_codecs.encode`."""
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("not bytes")
        # A genuine pickle encodes each string once; repeated encoding could exhaust memory.
        self.encoded += len(text)
        if self.encoded > len(self.data):
            raise self.refusal("its pickle makes more bytes than it holds")
        return text.encode("latin1")

    def numpy_dtype(self, code, align=False, copy=True) -> np.dtype:
        if code not in NUMPY_SCALARS:
            raise self.refusal("a numpy scalar is neither a number nor a bool")
        return np.dtype(code)

    def numpy_scalar(self, dtype, data) -> int | float | bool:
        if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
            raise ValueError("not a numpy scalar")
        return np.frombuffer(data, dtype)[0].item()
