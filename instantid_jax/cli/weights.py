"""Weights on the command line, and the faces that go with them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import tyro

from instantid_jax import embedded
from instantid_jax.cli.faces import FacePack, read_faces
from instantid_jax.face.analysis import NoFaceError
from instantid_jax.face.face import Face
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request import Settings
from instantid_jax.request.fast import Fast, check_steps
from instantid_jax.sharding import parse_sampling_mesh

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights(Sources):
    """--sdxl and --instantid, or --model; without any, the embedded miniature.

    Attributes:
      loras: LoRAs to merge into SDXL: files, folders, hub ids, or hub ids with a file in them; each
        may be followed by its strength, as in file:0.8, or by those of the UNet and of the text
        encoders, as in file:0.8:0.5.
      embeddings: textual inversions: files, folders, hub ids, or hub ids with a file in them. The
        file's name stands for its vectors in prompts; NAME=FILE gives another name.
      dtype: to compute in; None is bfloat16 on accelerators and float32 on a CPU.
      vae_dtype: the same for the VAE; None is as --dtype.
      mesh: devices to sample on, such as data=4,guidance=2: images at a time, halves of guidance,
        and rows, parts of an image; None is one device.
      vae_tiling: True or the side in pixels: the VAE takes large images in tiles; None does where
        memory could not hold them whole.
      offload: keep text encoders, ControlNets, refiner and VAE in the host's memory between their
        uses.
    """

    loras: Annotated[tuple[str, ...], tyro.conf.arg(name="lora", metavar="FILE[:W[:W]]")] = ()
    embeddings: Annotated[
        tuple[str, ...], tyro.conf.arg(name="embedding", metavar="[NAME=]FILE")
    ] = ()
    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None
    mesh: str | None = None
    vae_tiling: bool | int | None = None
    offload: bool = False

    def for_preset(self, fast: Fast | None, settings: Settings) -> Self:
        """The weights for a preset: the embedded model's LoRA comes with its own.

        Raises:
          InputError: if the preset is for other weights, or another number of steps.
        """
        if fast is None:
            return self
        check_steps(fast, settings.num_inference_steps)
        weights = self
        if self.embedded and fast in embedded.LORAS and fast not in self.changing:
            weights = dataclasses.replace(self, loras=(*self.loras, fast))
        weights.check_preset(fast)
        return weights

    def made(self, facts: Mapping[str, Any]) -> bool:
        """Whether an image that records these facts was made with weights of these names."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(Sources)}
        # JSON has lists alone.
        recorded = json.loads(json.dumps(own)) == facts.get("weights")
        return recorded and all(
            getattr(self, name) in (None, facts.get(name)) for name in ("dtype", "vae_dtype")
        )

    def pack(self, chosen: FacePack) -> FacePack:
        """The face pack: the embedded model has its own, unless another is chosen."""
        if not self.embedded or chosen.face_pack is not None:
            return chosen
        return dataclasses.replace(chosen, face_pack=str(embedded.FACE_PACK))

    def person(self, sources: Sequence[str], pack: FacePack) -> Face:
        """One person from photos and `.npz` files; the embedded model takes drawn ones only."""
        if not self.embedded:
            return Face.mean(read_faces(sources, pack))
        try:
            faces = read_faces(sources, pack)
        except NoFaceError as error:
            raise NoFaceError(f"{error}; {embedded.ADVICE}") from error
        for source, face in zip(sources, faces, strict=True):
            embedded.check_drawn(face, source)
        return Face.mean(faces)

    def load(self) -> InstantIDPipeline:
        arguments: dict[str, Any] = {
            f.name: getattr(self, f.name) for f in dataclasses.fields(self)
        }
        mesh = arguments.pop("mesh")
        if mesh is not None:
            arguments["mesh"] = parse_sampling_mesh(mesh)
        return InstantIDPipeline.load(**arguments)
