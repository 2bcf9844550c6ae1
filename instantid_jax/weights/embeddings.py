"""Reads textual inversions: vectors for both text encoders, and the names that prompts use.

Sources: the files of AUTOMATIC1111's web UI and kohya-ss/sd-scripts (clip_l, clip_g), of pivotal
tuning in diffusers (examples/advanced_diffusion_training), and of OneTrainer, which stores them in
LoRAs.
"""

import dataclasses
import logging
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from instantid_jax.components import Component
from instantid_jax.errors import InputError
from instantid_jax.inversion import Embedding, Embeddings, checked_name
from instantid_jax.weights.hub import file_of
from instantid_jax.weights.identify import BUNDLED, EMBEDDING_KEYS, kind_of
from instantid_jax.weights.tensors import FLOATS, LazyTensor, Tensors
from instantid_jax.weights.torch_files import open_tensors

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".bin", ".pti")
# Row i of such a file is the token <si>.
PIVOTAL_STEM, PIVOTAL_KEYS = "_emb", EMBEDDING_KEYS[1]
_BUNDLED = re.compile(rf"{re.escape(BUNDLED)}(?P<name>.+)\.(?P<key>\w+)")
_FLOATS = (*FLOATS, np.dtype(np.float64))

Pair = tuple[LazyTensor, LazyTensor]


@dataclasses.dataclass(frozen=True)
class EmbeddingSource:
    """A file of embeddings, and the name it gets.

    Attributes:
      source: a file, a folder with one, a hub id, or a hub id and the file's path in it.
      name: the name in prompts, for all vectors of the file; None is as the file says, or its name.
    """

    source: str
    name: str | None = None

    def __post_init__(self):
        if not isinstance(self.source, str | os.PathLike):
            raise InputError(f"embeddings: {self.source!r} is not a path or a hub id")
        object.__setattr__(self, "source", os.fspath(self.source))
        if self.name is not None:
            object.__setattr__(self, "name", checked_name(self.name, self.source))

    @classmethod
    def parse(cls, given: Any) -> Self:
        """From `source` or `name=source`.

        Args:
          given: text, a path, or an `EmbeddingSource`, which is returned.
        Raises:
          InputError: if it is neither.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str) or Path(given).exists() or "=" not in given:
            return cls(given)
        name, _, source = given.partition("=")
        return cls(source.strip(), name)

    def __str__(self) -> str:
        """The inverse of `parse`."""
        return self.source if self.name is None else f"{self.name}={self.source}"

    def find(self) -> Path:
        """The file; fetched, if it is not on this machine.

        Raises:
          InputError: if there is none, or a folder has several.
        """
        return file_of(self.source, embedding_files)


def parse_embeddings(given: Any) -> tuple[EmbeddingSource, ...]:
    """Sources of a list; see `EmbeddingSource.parse`.

    Raises:
      InputError: if it is not a list, or holds something else.
    """
    if isinstance(given, str | os.PathLike | EmbeddingSource) or not isinstance(given, Sequence):
        raise InputError(f"embeddings={given!r}: expected a list")
    return tuple(EmbeddingSource.parse(each) for each in given)


def embedding_files(files: Sequence[str]) -> list[str]:
    """The file of embeddings at the root of a folder.

    Raises:
      InputError: if there is none, or several under names that say nothing.
    """
    held = sorted(name for name in files if "/" not in name and name.endswith(SUFFIXES))
    named = [name for name in held if Path(name).stem.endswith(PIVOTAL_STEM)]
    chosen = named or held
    if len(chosen) != 1:
        listed = ", ".join(held[:8]) or "no weights"
        remedy = "name one of them, as in FOLDER/FILE" if held else "name an embedding's file"
        raise InputError(f"it has {listed}: {remedy}")
    return chosen


def vector_widths(components: Mapping[str, Component]) -> tuple[int, int]:
    """The widths of the text encoders' vectors."""
    first, second = (
        components[part].network.config.hidden_size for part in ("text_encoder", "text_encoder_2")
    )
    return first, second


def find_embeddings(sources: Sequence[EmbeddingSource], widths: tuple[int, int]) -> list[Embedding]:
    """Finds and reads embeddings.

    Args:
      widths: the widths of the text encoders' vectors.
    Raises:
      InputError: if one is missing, damaged, of another model, or named as another one.
    """
    found: dict[str, Embedding] = {}
    for source in sources:
        for each in read_embeddings(source.find(), widths, source.name):
            other = found.setdefault(each.name.casefold(), each)
            if other is not each:
                raise InputError(
                    f"{other.source} and {each.source} have embeddings of one name, {each.name}: "
                    "give a name for all vectors of one, as in NAME=FILE"
                )
    return list(found.values())


def join_embeddings(
    widths: tuple[int, int], chosen: Sequence[Embedding], bundled: Sequence[Embedding]
) -> Embeddings:
    """Embeddings that were chosen, and those in LoRAs; the first of a name counts."""
    found = {each.name.casefold(): each for each in chosen}
    for each in bundled:
        other = found.setdefault(each.name.casefold(), each)
        if other is not each:
            logger.warning(
                "%s also has an embedding %s: the one of %s is used",
                each.source,
                each.name,
                other.source,
            )
    return Embeddings(widths, list(found.values()))


def read_embeddings(
    path: Path, widths: tuple[int, int], name: str | None = None
) -> list[Embedding]:
    """The embeddings of a file.

    Args:
      widths: the widths of the text encoders' vectors.
      name: one for all vectors; None is as the file says: the file's own name, with pivotal tuning
        also <s0>, <s1>, ... for each vector, and with OneTrainer's LoRAs the names in them.
    Raises:
      InputError: if the file is damaged or holds something else.
    """
    file = open_tensors(path)
    kind = kind_of(file.tensors)
    tensors = file.tensors
    if any(key.startswith(BUNDLED) for key in tensors):
        found = read_bundled(path, tensors, widths)
        if not found:
            raise InputError(f"{path} has no embedding with {' and '.join(EMBEDDING_KEYS[0])}")
        if name is not None and len(found) > 1:
            names = ", ".join(each.name for each in found)
            raise InputError(
                f"{path} has the embeddings {names}, not one that could be {name}: give the file "
                "alone"
            )
        return found if name is None else [dataclasses.replace(found[0], name=name)]
    if kind.part != "embedding":
        raise InputError(
            f"{path} is {kind.phrase}: expected an SDXL textual inversion, with clip_l and clip_g"
        )
    keys = next(keys for keys in EMBEDDING_KEYS if set(keys) <= set(tensors))
    others = [key for key in tensors if key not in keys]
    if others:
        raise InputError(
            f"{path} has {len(others)} tensors in addition to {' and '.join(keys)} "
            f"({', '.join(others[:3])}): expected a textual inversion of SDXL"
        )
    vectors = _read((tensors[keys[0]], tensors[keys[1]]), widths, f"{path}: ", keys)
    whole = Embedding(name or path.stem, vectors, str(path))
    pivotal = keys == PIVOTAL_KEYS or path.stem.endswith(PIVOTAL_STEM)
    if name is not None or not pivotal:
        return [whole]
    first, second = vectors
    rows = [
        Embedding(f"<s{i}>", (first[i : i + 1], second[i : i + 1]), str(path))
        for i in range(len(whole))
    ]
    return [whole, *rows]


def read_bundled(path: Path, tensors: Tensors, widths: tuple[int, int]) -> list[Embedding]:
    """The embeddings in a LoRA of OneTrainer; warns of what is not for both text encoders.

    Raises:
      InputError: if they are damaged or belong to another model.
    """
    found: dict[str, dict[str, LazyTensor]] = defaultdict(dict)
    for key, tensor in tensors.items():
        match = _BUNDLED.fullmatch(key)
        if match is not None:
            found[match["name"]][match["key"]] = tensor
    keys = EMBEDDING_KEYS[0]
    fitting = {name: parts for name, parts in found.items() if parts.keys() == set(keys)}
    others = [name for name in found if name not in fitting]
    if others:
        logger.warning(
            "%s: leaving out %d of its embeddings, which are not vectors for both text encoders "
            "(%s)",
            path,
            len(others),
            ", ".join(others[:3]),
        )
    return [
        Embedding(
            name,
            _read((parts[keys[0]], parts[keys[1]]), widths, f"{path}: {BUNDLED}{name}.", keys),
            str(path),
        )
        for name, parts in fitting.items()
    ]


def _read(
    pair: Pair, widths: tuple[int, int], prefix: str, keys: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Checked vectors [n, width] float32 of both text encoders."""
    for number, (tensor, width, key) in enumerate(zip(pair, widths, keys, strict=True), 1):
        if tensor.dtype not in _FLOATS:
            raise InputError(
                f"{prefix}{key} is stored as {tensor.dtype}, expected float32, float16 or "
                "bfloat16; save it again in one of these"
            )
        shape = tensor.shape if len(tensor.shape) == 2 else (1, *tensor.shape)
        if len(shape) != 2 or not shape[0] or shape[1] != width:
            raise InputError(
                f"{prefix}{key} has shape {list(tensor.shape)}, expected [n, {width}], the vectors "
                f"of this model's text encoder {number}"
            )
    with np.errstate(over="ignore"):
        first, second = (np.atleast_2d(tensor.read()).astype(np.float32) for tensor in pair)
    if len(first) != len(second):
        raise InputError(
            f"{prefix}{keys[0]} has {len(first)} vectors and {keys[1]} {len(second)}: expected "
            "equally many; fetch the file again"
        )
    for key, vectors in zip(keys, (first, second), strict=True):
        if not np.isfinite(vectors).all():
            raise InputError(f"{prefix}{key} has values that are not finite: fetch the file again")
    return first, second
