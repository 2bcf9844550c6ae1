"""Finds a LoRA from its name, which may say how strongly it counts."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.request.checks import check_number
from instantid_jax.weights import selection
from instantid_jax.weights.hub import file_of

# Strengths beyond these destroy any picture; a mistyped one should be reported.
WEAKEST, STRONGEST = -20, 20
_STRENGTH = r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"
_TEXT = re.compile(rf"(?P<source>.+?)(:(?P<unet>{_STRENGTH}))?(:(?P<text>{_STRENGTH}))?")


@dataclasses.dataclass(frozen=True)
class Lora:
    """A LoRA and its strengths.

    Attributes:
      source: a file, a folder with one, a hub id, or a hub id and the file's path in it, as in
        ByteDance/SDXL-Lightning/sdxl_lightning_8step_lora.safetensors; or the name of one that is
        embedded.
      unet: factor of the differences in the UNet; may be negative.
      text: the same in the text encoders; None is as in the UNet.
    """

    source: str
    unet: float = 1.0
    text: float | None = None

    def __post_init__(self):
        if not isinstance(self.source, str | os.PathLike):
            raise InputError(f"loras: {self.source!r} is not a path or a hub id")
        object.__setattr__(self, "source", os.fspath(self.source))
        for name in ("unet", "text"):
            value = getattr(self, name)
            if value is not None:
                what = f"the strength of {self.source}"
                object.__setattr__(self, name, check_number(what, value, WEAKEST, STRONGEST))

    @classmethod
    def parse(cls, given: Any) -> Self:
        """A LoRA from `source`, `source:0.8` or `source:0.8:0.5`, with strengths of UNet and text.

        Args:
          given: text, a path, or a `Lora`, which is returned.
        Raises:
          InputError: if it is neither.
        """
        if isinstance(given, cls):
            return given
        if not isinstance(given, str) or Path(given).exists():
            return cls(given)
        match = _TEXT.fullmatch(given)
        if match is None:
            raise InputError(f"loras: {given!r}: expected file, file:0.8 or file:0.8:0.5")
        unet, text = (
            None if match[name] is None else float(match[name]) for name in ("unet", "text")
        )
        return cls(match["source"], 1.0 if unet is None else unet, text)

    def __str__(self) -> str:
        """The inverse of `parse`."""
        text = "" if self.text is None else f":{self.text:g}"
        return f"{self.source}:{self.unet:g}{text}" if text or self.unet != 1 else self.source

    def strength(self, part: str) -> float:
        """The factor of the differences in a network, "unet" or a text encoder."""
        return self.unet if part == "unet" or self.text is None else self.text

    def find(self) -> Path:
        """The file; fetched, if it is not on this machine.

        Raises:
          InputError: if there is none, or a folder has several.
        """
        if self.source in embedded.LORAS:
            return embedded.LORAS[self.source]
        return file_of(self.source, selection.lora_files)


def parse_loras(given: Any) -> tuple[Lora, ...]:
    """LoRAs of a list; see `Lora.parse`.

    Raises:
      InputError: if it is not a list, or holds something else.
    """
    if isinstance(given, str | os.PathLike | Lora) or not isinstance(given, Sequence):
        raise InputError(f"loras={given!r}: expected a list")
    return tuple(Lora.parse(each) for each in given)
