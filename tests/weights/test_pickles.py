"""Hostile and damaged pickles: nothing runs, memory stays small, a line says what was refused."""

import functools
import os
import pathlib
import pickle
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
import torch

from instantid_jax.errors import InputError
from instantid_jax.weights import pickles
from instantid_jax.weights.torch_files import open_tensors
from tests.weights.handwritten import START, dict_of, storage, tensor, text, write_archive


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced

    def __call__(self):
        """Returns itself, since pickle checks that the result is callable."""


class Stateful:
    """Pickles as an object with a state for `__setstate__`."""

    def __init__(self, state):
        self.state = state

    def __setstate__(self, state):
        self.state = state


def hostile(marker):
    """Pickles that create `marker` in Python's unpickler, by the name to refuse."""
    command = f"touch {marker}"
    return {
        "posix.system": Call(os.system, command),
        "builtins.eval": Call(eval, f"open({str(marker)!r}, 'w').close()"),
        "builtins.exec": [{"b": Call(exec, f"open({str(marker)!r}, 'w').close()")}],
        "io.open": OrderedDict(a=1, b=Call(open, str(marker), "w")),
        "builtins.getattr": Call(Call(getattr, Call(__import__, "os"), "system"), command),
        "tests.weights.test_pickles.Stateful": Stateful(Call(os.system, command)),
        "functools.partial": Call(functools.partial(os.system, command)),
        "posix.remove": {"a": {"b": (1, Call(os.remove, str(marker)))}},
        "pathlib.PosixPath": marker,
        "torch.serialization.load": Call(torch.load, str(marker)),
        "torch.nn.modules.linear.Linear": torch.nn.Linear(2, 2),
        "builtins.bytearray": Call(bytearray, 2**40),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", hostile(pathlib.PurePath()))
def test_hostile_pickle_runs_nothing_and_is_named(name, protocol, tmp_path):
    marker = tmp_path / "marker"
    data = pickle.dumps({"weights": hostile(marker)[name]}, protocol)
    path = write_archive(tmp_path / "x.bin", data)
    with pytest.raises(InputError) as caught:
        open_tensors(path)
    # Protocol 2 has Python 2's name of the module.
    assert (name.replace("builtins", "__builtin__") if protocol == 2 else name) in str(caught.value)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["posix.system", "builtins.exec", "builtins.getattr"])
def test_hostile_pickle_runs_in_pickle(name, tmp_path):
    """Python's unpickler really runs them."""
    marker = tmp_path / "marker"
    pickle.loads(pickle.dumps(hostile(marker)[name]))
    assert marker.exists()


def test_hostile_file_of_torch_save_runs_nothing(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "x.ckpt"
    torch.save({"a": torch.ones(2), "b": Call(os.system, f"touch {marker}")}, path)
    with pytest.raises(InputError, match=r"posix\.system"):
        open_tensors(path)
    assert not marker.exists()


def name_of(module, name):
    return b"c" + module.encode() + b"\n" + name.encode() + b"\n"


SIZE = name_of("torch", "Size")
DTYPE = name_of("numpy", "dtype")
DOTTED = START + text("torch") + text("_utils.os.system") + b"\x93."
CONTROL = START + text("os\n\x1b[2J") + text("system") + b"\x93."
SYSTEM = text("x") + b"\x85R"

HANDWRITTEN = {
    "a dotted name": (DOTTED, "'torch._utils.os.system'"),
    "a dotted admitted name": (START + name_of("torch", "_utils._rebuild_tensor_v2"), "refused"),
    "an admitted name, split elsewhere": (START + name_of("torch._utils._rebuild", ""), "refused"),
    "getattr": (START + name_of("builtins", "getattr"), "'builtins.getattr'"),
    "a name of newlines and escapes": (CONTROL, r"'os\\n\\x1b\[2J\.system'"),
    "a long name": (START + name_of("o" * 10_000, "system"), r"ooo\.\.\."),
    "a name that is not a string": (START + b"NN\x93.", "damaged"),
    "INST": (START + b"(ios\nsystem\n.", "opcode INST"),
    "OBJ": (START + b"(" + SIZE + b"o.", "opcode OBJ"),
    "NEWOBJ": (START + SIZE + b")\x81.", "opcode NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04" + SIZE + b")}\x92.", "opcode NEWOBJ_EX"),
    "EXT1": (START + b"\x82\x01.", "opcode EXT1"),
    "EXT4": (START + b"\x84\x01\x00\x00\x00.", "opcode EXT4"),
    "PERSID": (START + b"P0\n.", "opcode PERSID"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
    "REDUCE of a string": (START + text("os.system") + SYSTEM + b".", "calls a str"),
    "REDUCE of a result": (START + SIZE + b")\x85R" + SYSTEM + b".", "calls a tuple"),
    "REDUCE of a storage type": (START + name_of("torch", "FloatStorage") + SYSTEM, "calls a Name"),
    "REDUCE of a tensor": (START + tensor((1,), (1,)) + SYSTEM + b".", "calls a Tensor"),
    "BUILD of a name": (START + SIZE + b"}b.", "attributes of a Name"),
    "BUILD of a tensor": (START + tensor((1,), (1,)) + b"}b.", "attributes of a Tensor"),
    "BUILD of slots": (START + b"}N}" + text("clear") + b"Ns\x86b.", "attributes of a dict"),
    "arguments of a wrong type": (START + SIZE + b"N\x85R.", "damaged"),
    "no arguments": (START + SIZE + b")R.", "damaged"),
    "many arguments": (START + SIZE + b"(" + b"N" * 1000 + b"tR.", "damaged"),
    "another encoding": (
        START + name_of("_codecs", "encode") + text("a") + text("rot13") + b"\x86R.",
        "damaged",
    ),
    "a scalar that is an object": (START + DTYPE + text("O8") + b"\x85R.", "numpy scalar"),
    "a big-endian scalar": (
        START + DTYPE + text("f8") + b"\x85RK\x03" + text(">") + b"\x86b.",
        "little-endian",
    ),
    "a storage that is a number": (START + b"K\x01Q.", "not a storage"),
    "a storage of another type": (dict_of(storage(kind=b"Size")), "not a storage"),
    "a storage of a long name": (
        dict_of(tensor((1,), (1,), of=storage("0" * 999))),
        "not a storage",
    ),
    "a storage of negative length": (dict_of(storage(elements=-1)), "not a storage"),
    "nothing": (b"", "damaged"),
    "no STOP": (START + b"}", "damaged"),
    "an empty stack": (START + b"R.", "damaged"),
    "an unknown memo": (START + b"h\x05.", "damaged"),
    "an unknown opcode": (START + b"\xff.", "damaged"),
    "no mark": (START + b"t.", "damaged"),
    "a key without a value": (START + b"}(Nu.", "damaged"),
    "items of None": (START + b"N(K\x01e.", "damaged"),
    "a key that is None": (START + b"}NNs.", "key of a dict is a NoneType"),
    "a key of nested tuples": (
        START + b"})" + b"\x85" * 300_000 + b"Ns.",
        "key of a dict is a tuple",
    ),
    "a key of 4000 digits": (
        START + b"}\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b"Ns.",
        "key of a",
    ),
    "a key of 1000 letters": (START + b"}" + text("a" * 1000) + b"K\x01s.", "name of 1000 letters"),
    "a short string": (START + b"X\xff\xff\xff\x7fab.", "damaged"),
    "a short string of 2^60": (b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"ab.", "damaged"),
    "a bare name": (dict_of(SIZE), "bare Name"),
    "a bare storage": (dict_of(storage()), "bare Storage"),
    "a single tensor": (START + tensor((4,), (1,)) + b".", "single Tensor"),
    "a dict in itself": (START + b"}q\x00" + text("a") + b"h\x00s.", "in itself"),
    "a list in itself": (dict_of(b"]q\x00h\x00a"), "in itself"),
    "two of one name": (
        START + b"}(" + text("a.b") + b"K\x01" + text("a") + b"}" + text("b") + b"K\x02su.",
        r"two entries are called 'a\.b'",
    ),
    "a tensor beyond": (dict_of(tensor((5,), (1,))), "beyond its storage of 4"),
    "a tensor beyond by its offset": (dict_of(tensor((4,), (1,), 1)), "beyond its storage of 4"),
    "a tensor beyond by its strides": (dict_of(tensor((2, 2), (3, 1))), "beyond its storage of 4"),
    "a tensor beyond 2^61": (dict_of(tensor((2,), (2**61,))), "beyond its storage of 4"),
    "a negative offset": (dict_of(tensor((4,), (1,), -1)), "not a tensor"),
    "a negative stride": (dict_of(tensor((4,), (-1,), 3)), "not a tensor"),
    "a negative length": (dict_of(tensor((-4,), (1,))), "not a tensor"),
    "a tensor expanded to 2^42 bytes": (dict_of(tensor((2**40,), (0,))), "repeats a storage of 4"),
    "65 dimensions": (dict_of(tensor((1,) * 65, (1,) * 65)), "not a tensor"),
    "fewer strides": (dict_of(tensor((2, 2), (1,))), "not a tensor"),
    "a tensor of no storage": (dict_of(tensor((2,), (1,), of=b"N")), "not a tensor"),
}


@pytest.mark.parametrize("case", HANDWRITTEN)
def test_handwritten_pickle_is_refused_in_a_line(case, tmp_path):
    data, message = HANDWRITTEN[case]
    path = write_archive(tmp_path / "x.bin", data)
    with pytest.raises(InputError, match=message) as caught:
        open_tensors(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def billion_laughs():
    """{'a': x30} where each of x30 ... x1 is a dict of the one before, ten times."""
    parts = [b"}q\x00" + text("leaf") + b"K\x01s"]
    for level in range(1, 31):
        inner = b"".join(text(str(i)) + b"h" + bytes([level - 1]) for i in range(10))
        parts.append(b"}q" + bytes([level]) + b"(" + inner + b"u")
    return START + b"".join(parts) + b"."


def many_bytes():
    """A string of a megabyte, encoded ten thousand times."""
    encode = name_of("_codecs", "encode") + b"q\x00" + text("latin1") + b"q\x01"
    repeated = b"(" + b"h\x00h\x02h\x01\x86R" * 10_000 + b"l"
    return START + encode + text("a" * 2**20) + b"q\x02" + repeated.replace(b"l", b"t") + b"."


BOMBS = {
    "memo index": (START + b"Nr\xff\xff\xff\xff.", "single NoneType"),
    "laughs": (billion_laughs(), "entries"),
    "encoded bytes": (many_bytes(), "more bytes than it holds"),
    "opcodes": (START + b"]" * (pickles.MAX_OPCODES + 1) + b".", "opcodes"),
    "size": (b"\x00" * (pickles.MAX_BYTES + 1), "at most"),
}

LIMITED = """
import resource, sys
from instantid_jax.errors import InputError
from instantid_jax.weights.torch_files import open_tensors
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20,) * 2)
try:
    open_tensors(sys.argv[1])
except InputError as error:
    print(error)
"""


@pytest.mark.parametrize("case", BOMBS)
def test_bomb_stays_small(case, tmp_path):
    data, message = BOMBS[case]
    path = write_archive(tmp_path / "x.bin", data, compression=8)
    command = [sys.executable, "-c", LIMITED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


def test_everything_a_checkpoint_holds_is_read(tmp_path):
    model = torch.nn.Linear(3, 2)
    content = {
        "weights": model.state_dict(),  # an OrderedDict with an attribute, `_metadata`
        "parameter": model.weight,
        "epoch": 3,
        "loss": np.float64(0.25),
        "best": np.int64(7),
        "size": torch.Size([1, 2]),
        "name": "größe",
        "blob": b"\x00\xff",
        "none": None,
        "flag": True,
        "large": 2**70,
        "nested": [{"x": 1.5}, (2, "y")],
        "by_number": {0: torch.ones(1)},
        "empty": {},
    }
    for protocol in (2, 4, 5):
        torch.save(content, tmp_path / "x.ckpt", pickle_protocol=protocol)
        file = open_tensors(tmp_path / "x.ckpt")
        weights = ["weights.weight", "weights.bias", "parameter", "by_number.0"]
        assert file.names() == weights
        np.testing.assert_array_equal(file["parameter"], model.weight.detach().numpy())
        assert file.metadata == {
            "epoch": 3,
            "loss": 0.25,
            "best": 7,
            "size.0": 1,
            "size.1": 2,
            "name": "größe",
            "blob": b"\x00\xff",
            "none": None,
            "flag": True,
            "large": 2**70,
            "nested.0.x": 1.5,
            "nested.1.0": 2,
            "nested.1.1": "y",
        }


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("kind", "make"),
    {
        "an unsigned integer tensor": lambda: torch.ones(2).to(torch.uint16),
        "a float8 tensor in a format": lambda: torch.ones(2).to(torch.float8_e4m3fnuz),
        "a complex tensor": lambda: torch.ones(2, dtype=torch.complex64),
        "a sparse tensor": lambda: torch.ones(2, 2).to_sparse(),
        "a tensor without data": lambda: torch.ones(2, device="meta"),
        "negative view": lambda: torch.ones(2)._neg_view(),
        "a numpy array": lambda: np.ones(2),
    }.items(),
)
def test_unsupported_tensor_is_named(kind, make, tmp_path):
    torch.save({"a": make()}, tmp_path / "x.bin")
    with pytest.raises(InputError, match=kind):
        open_tensors(tmp_path / "x.bin")
