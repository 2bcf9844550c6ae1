"""Sources: which files a model is loaded from, the same for Python, the command and conversion."""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from instantid_jax import embedded
from instantid_jax.components import ModelSource
from instantid_jax.errors import InputError
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.fast import PRESETS, check_files
from instantid_jax.runs.trained import check_raw, find_published_or_trained
from instantid_jax.signatures import Call, with_signature
from instantid_jax.weights.embeddings import parse_embeddings
from instantid_jax.weights.hub import check_id, split_id
from instantid_jax.weights.layouts import add_parts, find_sdxl
from instantid_jax.weights.lora.sources import parse_loras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Weights: sdxl and instantid, or model; none of them is the embedded miniature.

    Attributes:
      sdxl: SDXL base: a diffusers folder, a single .safetensors or .ckpt file in the original
        layout, a hub id, or a hub id and the path of a file in it.
      instantid: InstantID's adapter and ControlNetModel/: a folder or a hub id; or the folder of a
        training run, whose newest checkpoint is taken.
      model: a folder that `python -m convert to-jax` made, instead of both.
      controlnets: additional ControlNets, each a file, a folder, a hub id, or a hub id and the path
        of a file in it.
      vae: a VAE instead of SDXL's own: the same, or a whole SDXL checkpoint in one file.
      unet: a UNet instead of SDXL's own, such as a few-step model's: the same.
      refiner: SDXL's refiner, which continues where `denoising_end` ends the base networks: a
        diffusers folder, its UNet's folder, a file, a hub id, or a hub id and the path of a file in
        it. The model's own text encoder 2 and VAE serve it.
      tokenizers: a folder or hub id with tokenizer/ and tokenizer_2/; None is the folder's own, or
        SDXL base's for a single file.
      variant: take the weights files with this infix, such as fp16, in every part that has them.
      loras: LoRAs to merge into SDXL: files, folders, hub ids, or hub ids with a file in them; each
        may be followed by its strength, as in file:0.8, or by those of the UNet and of the text
        encoders, as in file:0.8:0.5.
      embeddings: textual inversions: files, folders, hub ids, or hub ids with a file in them. The
        file's name stands for its vectors in prompts; name=file gives another name.
      raw: take a training run's parameters themselves instead of their moving average.
    Raises:
      InputError: for sources that exclude each other, or one of two that belong together.
    """

    sdxl: str | None = None
    instantid: str | None = None
    model: str | None = None
    controlnets: tuple[str, ...] = ()
    vae: str | None = None
    unet: str | None = None
    refiner: str | None = None
    tokenizers: str | None = None
    variant: str | None = None
    loras: tuple[str, ...] = ()
    embeddings: tuple[str, ...] = ()
    raw: bool = False

    def __post_init__(self):
        if not isinstance(self.controlnets, list | tuple):
            raise InputError(f"controlnets={self.controlnets!r}: expected a list")
        object.__setattr__(self, "controlnets", tuple(self.controlnets))
        object.__setattr__(self, "loras", tuple(map(str, parse_loras(self.loras))))
        embeddings = tuple(map(str, parse_embeddings(self.embeddings)))
        object.__setattr__(self, "embeddings", embeddings)
        for name in (
            "sdxl",
            "instantid",
            "model",
            "controlnets",
            "vae",
            "unet",
            "refiner",
            "tokenizers",
            "variant",
        ):
            given = getattr(self, name)
            for each in given if isinstance(given, tuple) else [given]:
                if not isinstance(each, str | os.PathLike | None):
                    raise InputError(f"{name}={each!r}: expected a path or a hub id")
        check_raw(self.raw, self.instantid)
        both = self.sdxl is not None and self.instantid is not None
        neither = self.sdxl is None and self.instantid is None
        if not (neither or (both and self.model is None)):
            raise InputError(
                f"sdxl={self.sdxl!r}, instantid={self.instantid!r}, model={self.model!r}: give "
                "sdxl and instantid, or model alone"
            )
        if self.model is not None and self.tokenizers is not None:
            raise InputError(
                f"tokenizers={self.tokenizers!r} with model={self.model!r}: a converted model has "
                "its own; leave them out"
            )

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> Self:
        """Sources from arguments by name; refuses unknown names with the nearest known one."""
        names = [field.name for field in dataclasses.fields(cls)]
        known = [*names, "dtype", "vae_dtype", "mesh", "vae_tiling", "offload"]
        refuse_unknown([name for name in arguments if name not in names], known)
        return cls(**arguments)

    def check_names(self) -> None:
        """Refuses what is neither a file or folder here nor a hub id; asks nobody.

        Raises:
          InputError: for such a name.
        """
        embeddings = [each.source for each in parse_embeddings(self.embeddings)]
        files = [*self.controlnets, self.vae, self.refiner, *self.changing, *embeddings]
        # Whether a name may be a hub id with a file in it.
        names = [(self.sdxl, True), (self.instantid, False), *((file, True) for file in files)]
        for name, with_file in (*names, (self.tokenizers, False)):
            if name is not None and not Path(name).exists() and name not in embedded.LORAS:
                check_id(split_id(name)[0] if with_file else name)

    @property
    def changing(self) -> list[str]:
        """The sources of a UNet and of LoRAs."""
        unet = [] if self.unet is None else [self.unet]
        return [*unet, *(lora.source for lora in parse_loras(self.loras))]

    def check_preset(self, fast: str) -> None:
        """Refuses weights that a preset was not made for, as far as their names say it.

        Raises:
          InputError: for such weights, and an unknown preset.
        """
        sdxl = [] if self.sdxl is None else [self.sdxl]
        check_files(fast, [*sdxl, *self.changing])
        if self.embedded != (fast in embedded.LORAS):
            own = ", ".join(embedded.LORAS)
            other = ", ".join(name for name in PRESETS if name not in embedded.LORAS)
            raise InputError(
                f"fast={fast!r} is not for these weights: the embedded model has {own}, others "
                f"{other}"
            )
        if self.embedded and fast not in self.changing:
            raise InputError(f"fast={fast!r} without its LoRA: give loras=[{fast!r}]")

    @property
    def embedded(self) -> bool:
        """Whether no weights are named, so that the embedded miniature is used."""
        return self.sdxl is None and self.model is None

    def find(self) -> ModelSource:
        """Finds all parts; reads configurations and names, not weights.

        Raises:
          InputError: if something is missing, damaged, of another kind or does not fit.
        """
        if self.model is not None:
            from instantid_jax.checkpoint import open_model  # Orbax is slow to import

            found, vae = open_model(Path(self.model)), self.vae
        else:
            if self.sdxl is not None and self.instantid is not None:
                sdxl, instantid = self.sdxl, self.instantid
            else:
                sdxl, instantid = str(embedded.SDXL), str(embedded.INSTANTID)
            base = find_sdxl(sdxl, tokenizers=self.tokenizers, vae=self.vae, variant=self.variant)
            parts = find_published_or_trained(
                instantid, base.components["unet"].network, variant=self.variant, raw=self.raw
            )
            found, vae = base.with_parts(parts), None
        return add_parts(
            found, self.controlnets, vae, self.unet, self.refiner, variant=self.variant
        )


def takes_sources(call: Call) -> Call:
    """Decorates a function that takes `**sources`; gives it the names of `Sources`."""
    signature = inspect.signature(call)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = [
        p
        for name, p in inspect.signature(Sources).parameters.items()
        if name not in signature.parameters
    ]
    return with_signature(call, signature.replace(parameters=[*own, *named]))
