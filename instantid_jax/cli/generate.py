"""`instantid generate`: a face and a prompt in, a picture out."""

import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from instantid_jax import embedded
from instantid_jax.cli.faces import FacePack, read_faces
from instantid_jax.cli.outputs import check_picture
from instantid_jax.diffusion.names import SamplerName
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import NoFaceError
from instantid_jax.face.face import Face
from instantid_jax.pictures import read_picture, save_png
from instantid_jax.pipeline import InstantIDPipeline, inputs
from instantid_jax.runs.trained import check_raw
from instantid_jax.sharding import parse_sampling_mesh

logger = logging.getLogger(__name__)

PER_CONTROLNET = (
    "controlnet_conditioning_scale",
    "control_guidance_start",
    "control_guidance_end",
)
Dtype = Literal["float32", "bfloat16", "float16"]
# As of the pipeline itself.
GUIDANCE_SCALE = 5.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """--sdxl and --instantid, or --model; without any, the embedded miniature.

    Attributes:
      sdxl: SDXL base: a diffusers folder, a single file in the original layout, or a hub id.
      instantid: InstantID's adapter and ControlNetModel/: a folder or a hub id; or the folder of a
        training run, whose newest checkpoint is taken.
      raw: of a training run, take the parameters themselves where there is their moving average.
      model: a folder made by `python -m convert to-jax`, in place of both.
      controlnets: further ControlNets, each a folder or a hub id.
      vae: a VAE in place of SDXL's own: a folder or a hub id.
      tokenizers: for a single file, a folder or hub id with tokenizer/ and tokenizer_2/; None is
        SDXL base's.
      variant: take the weights files so named, such as fp16.
      dtype: what to compute in; None is bfloat16 on accelerators and float32 on a CPU.
      vae_dtype: the same for the VAE; None is as --dtype.
      mesh: devices to sample on, such as data=4,guidance=2: pictures at a time, halves of guidance,
        and rows, parts of a picture; None is one device.
    """

    sdxl: str | None = None
    instantid: str | None = None
    raw: bool = False
    model: str | None = None
    controlnets: tuple[str, ...] = ()
    vae: str | None = None
    tokenizers: str | None = None
    variant: str | None = None
    dtype: Dtype | None = None
    vae_dtype: Dtype | None = None
    mesh: str | None = None

    @property
    def named(self) -> bool:
        """Whether there are any, so that the embedded model is not used."""
        return any(weights is not None for weights in (self.sdxl, self.instantid, self.model))

    def pack(self, chosen: FacePack) -> FacePack:
        """What finds faces: of the embedded model its own pack, where no other is chosen."""
        if self.named or chosen.face_pack is not None:
            return chosen
        return dataclasses.replace(chosen, face_pack=str(embedded.FACE_PACK))

    def person(self, sources: Sequence[str], pack: FacePack) -> Face:
        """One person from photos and `.npz` files; the embedded model takes drawn ones alone."""
        if self.named:
            return Face.mean(read_faces(sources, pack))
        try:
            faces = read_faces(sources, pack)
        except NoFaceError as error:
            raise InputError(f"{error}; {embedded.ADVICE}") from error
        for face, source in zip(faces, sources, strict=True):
            embedded.check_drawn(face, source)
        return Face.mean(faces)

    def load(self) -> InstantIDPipeline:
        check_raw(self.raw, self.instantid)
        arguments = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        if self.mesh is not None:
            arguments["mesh"] = parse_sampling_mesh(self.mesh)
        if not self.named:
            logger.warning(embedded.NOTICE)
            arguments |= {"sdxl": str(embedded.SDXL), "instantid": str(embedded.INSTANTID)}
        return InstantIDPipeline.load(**arguments)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the picture is made; names and meanings are diffusers'.

    Attributes:
      negative_prompt: what to keep out of the picture.
      prompt_2: for the second text encoder; None is as --prompt.
      negative_prompt_2: for the second text encoder; None is as --negative-prompt.
      height: in pixels, a multiple of 8; None takes the photo's aspect ratio at the model's size.
      width: in pixels, a multiple of 8.
      num_inference_steps: denoising steps.
      guidance_scale: how strongly the prompt is followed; up to 1 there is no guidance. None is
        5, or 2 with the embedded model.
      ip_adapter_scale: strength of the Image Adapter, for likeness.
      controlnet_conditioning_scale: strength of IdentityNet, for likeness and the places of eyes,
        nose and mouth, then that of each further ControlNet; one number stands for all.
      control_guidance_start: share of the steps after which each ControlNet begins.
      control_guidance_end: share of the steps after which each ControlNet ends.
      guess_mode: let the ControlNets lead.
      clip_skip: layers of the text encoders to leave out beside the last.
      original_size: SDXL's micro-conditioning, height and width; None is the picture's.
      crops_coords_top_left: SDXL's micro-conditioning, top and left.
      target_size: SDXL's micro-conditioning, height and width; None is the picture's.
      scheduler: None is the checkpoint's own.
      eta: share of DDPM's noise, for ddim.
      seed: from 0; picture i of several has seed + i.
      num_images_per_prompt: how many pictures.
    """

    negative_prompt: str | None = None
    prompt_2: str | None = None
    negative_prompt_2: str | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int = 30
    guidance_scale: float | None = None
    ip_adapter_scale: float = 0.8
    controlnet_conditioning_scale: tuple[float, ...] = (0.8,)
    control_guidance_start: tuple[float, ...] = (0.0,)
    control_guidance_end: tuple[float, ...] = (1.0,)
    guess_mode: bool = False
    clip_skip: int | None = None
    original_size: tuple[int, int] | None = None
    crops_coords_top_left: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None
    scheduler: SamplerName | None = None
    eta: float = 0.0
    seed: int = 0
    num_images_per_prompt: int = 1

    def suited(self, weights: Weights) -> "Sampling":
        """With the guidance that suits the model, where none is told."""
        if self.guidance_scale is not None:
            return self
        usual = GUIDANCE_SCALE if weights.named else embedded.GUIDANCE_SCALE
        return dataclasses.replace(self, guidance_scale=usual)

    def check(self, controlnets: int | None = None) -> None:
        """Refuses what no model takes, before one is loaded.

        Args:
          controlnets: how many there will be; None where only the model tells.
        """
        size = inputs.choose_size(self.height, self.width, (), side=8)
        inputs.time_ids(size, self.original_size, self.crops_coords_top_left, self.target_size)
        inputs.check_whole("num_inference_steps", self.num_inference_steps, 1, 10**6)
        inputs.check_whole("num_images_per_prompt", self.num_images_per_prompt, 1, 1024)
        inputs.check_whole("seed", self.seed, 0, 2**32 - self.num_images_per_prompt)
        for name in ("guidance_scale", "ip_adapter_scale"):
            inputs.check_number(name, getattr(self, name), 0)
        arguments = self.arguments()
        scales = [arguments[name] for name in PER_CONTROLNET]
        several = [len(value) for value in scales if isinstance(value, tuple)]
        if controlnets is None:
            controlnets = max(several, default=1)
        inputs.residual_scales(
            [1] * controlnets, 1, *scales, guess_mode=False, guidance=False, batch=1
        )

    def arguments(self) -> dict:
        """As `InstantIDPipeline.__call__` takes them; a single number stands for every net."""
        values = dataclasses.asdict(self)
        for name in PER_CONTROLNET:
            if len(values[name]) == 1:
                values[name] = values[name][0]
        return values


def generate(
    face: tuple[str, ...],
    prompt: str,
    output: Path,
    pose: str | None = None,
    control_images: tuple[str, ...] = (),
    weights: Weights = Weights(),
    sampling: Sampling = Sampling(),
    face_pack: FacePack = FacePack(),  # noqa: B008
) -> None:
    """Makes a picture of a person.

    Args:
      face: photos of one person, or .npz files of `instantid embed`; several are averaged.
      prompt: what to show.
      output: a .png file; of several pictures each gets a number.
      pose: a photo or .npz whose keypoints are used in place of the face's.
      control_images: a picture for each further ControlNet.
    """
    check_picture(output)
    sampling = sampling.suited(weights)
    if weights.model is None and len(control_images) != len(weights.controlnets):
        raise InputError(
            f"--control-images has {len(control_images)} pictures, --controlnets names "
            f"{len(weights.controlnets)} ControlNets: give one picture for each"
        )
    sampling.check(None if weights.model else 1 + len(weights.controlnets))
    for picture in control_images:
        read_picture(picture)
    pack = weights.pack(face_pack)
    shown = weights.person(face, pack)
    posed = None if pose is None else read_faces([pose], pack)[0]
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
