"""`instantid generate`: a face and a prompt in, a picture out."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro

from instantid_jax.cache import cache_folder
from instantid_jax.cli.faces import FacePack, person
from instantid_jax.diffusion.samplers import SAMPLERS
from instantid_jax.errors import InputError
from instantid_jax.pictures import save_png
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.untrained import NOTICE, untrained_model

logger = logging.getLogger(__name__)

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Which weights; without any, a small untrained model.

    Attributes:
      sdxl: SDXL base: a diffusers folder, a single file in the original layout, or a hub id.
      instantid: the adapter and ControlNetModel/: a folder or a hub id.
      model: a folder made by `python -m convert to-jax`, in place of both.
      controlnets: further ControlNets, each a folder or a hub id.
      vae: a VAE in place of SDXL's own: a folder or a hub id.
      tokenizers: for a single file, where tokenizer/ and tokenizer_2/ lie; SDXL base's by default.
      variant: take the weights files so named, such as fp16.
      dtype: what to compute in; bfloat16 on accelerators and float32 on a CPU by default.
      vae_dtype: the same for the VAE; as dtype by default.
    """

    sdxl: str | None = None
    instantid: str | None = None
    model: str | None = None
    controlnets: tuple[str, ...] = ()
    vae: str | None = None
    tokenizers: str | None = None
    variant: str | None = None
    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None

    def load(self) -> InstantIDPipeline:
        arguments = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.sdxl is None and self.instantid is None and self.model is None:
            logger.warning(NOTICE)
            folder = str(untrained_model(cache_folder()))
            arguments |= {"sdxl": folder, "instantid": folder}
        return InstantIDPipeline.load(**arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the picture is made; names and meanings are diffusers'.

    Attributes:
      negative_prompt: what to keep out.
      prompt_2: for the second text encoder; as the prompt by default.
      negative_prompt_2: for the second text encoder; as negative_prompt by default.
      height: a multiple of 8; by default the photo's aspect ratio at the model's size.
      width: a multiple of 8.
      num_inference_steps: denoising steps.
      guidance_scale: how strongly the prompt is followed; up to 1 there is no guidance.
      ip_adapter_scale: strength of the Image Adapter.
      controlnet_conditioning_scale: strength of IdentityNet, then of each further ControlNet.
      control_guidance_start: share of the steps after which each ControlNet begins.
      control_guidance_end: share of the steps after which each ControlNet ends.
      guess_mode: let the ControlNets lead.
      clip_skip: layers of the text encoders to leave out beside the last.
      original_size: height and width, SDXL's micro-conditioning.
      crops_coords_top_left: top and left.
      target_size: height and width.
      scheduler: the checkpoint's own by default.
      eta: share of DDPM's noise, for ddim.
      seed: picture i of several has seed + i.
      num_images_per_prompt: how many pictures.
    """

    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float = 5.0
    ip_adapter_scale: float = 0.8
    controlnet_conditioning_scale: tuple[float, ...] = (0.8,)
    control_guidance_start: tuple[float, ...] = (0.0,)
    control_guidance_end: tuple[float, ...] = (1.0,)
    guess_mode: bool = False
    clip_skip: int | None = None
    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    scheduler: Literal[tuple(SAMPLERS)] | None = None
    eta: float = 0.0
    seed: int = 0
    num_images_per_prompt: int = 1

    def arguments(self) -> dict:
        """As `InstantIDPipeline.__call__` takes them; a single number stands for every net."""
        values = dataclasses.asdict(self)
        for name in (
            "controlnet_conditioning_scale",
            "control_guidance_start",
            "control_guidance_end",
        ):
            if len(values[name]) == 1:
                values[name] = values[name][0]
        return values


def generate(
    face: tuple[str, ...],
    prompt: str,
    output: Path,
    pose: str | None = None,
    control_images: tuple[str, ...] = (),
    weights: Annotated[Weights, tyro.conf.arg(name="")] = Weights(),
    sampling: Annotated[Sampling, tyro.conf.arg(name="")] = Sampling(),
    face_pack: Annotated[FacePack, tyro.conf.arg(name="")] = FacePack(),  # noqa: B008
) -> None:
    """Makes a picture of a person.

    Args:
      face: photos of one person, or .npz files of `instantid embed`; several are averaged.
      prompt: what to show.
      output: a .png file; of several pictures each gets a number.
      pose: a photo or .npz whose keypoints are used in place of the face's.
      control_images: a picture for each further ControlNet.
    """
    if output.suffix.lower() != ".png":
        raise InputError(f"--output {output}: expected a name ending in .png")
    shown = person(face, face_pack)
    posed = None if pose is None else person([pose], face_pack)
    pipe = weights.load()
    result = pipe(
        prompt, face=shown, pose=posed, control_images=control_images, **sampling.arguments()
    )
    settings = {
        "face": list(face),
        "pose": pose,
        "control_images": list(control_images),
        **dataclasses.asdict(weights),
        **sampling.arguments(),
    }
    several = len(result.images) > 1
    for i, (image, seed) in enumerate(zip(result.images, result.seeds, strict=True)):
        path = output.with_stem(f"{output.stem}-{i + 1}") if several else output
        save_png(image, path, prompt=prompt, settings=settings | {"seed": seed})
        print(path, file=sys.stdout)
