"""The node that makes images. Its inputs have the names and ranges of ComfyUI_InstantID's nodes.

Source: cubiq/ComfyUI_InstantID, ApplyInstantIDAdvanced; ComfyUI's KSampler.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from comfy_api.latest import io

from instantid_jax.errors import InputError
from instantid_jax.request.settings import SEEDS

from .generation import OWN_SAMPLER, SAMPLERS, SCHEDULERS, Generation, settings_of
from .images import read_images, read_mask, read_one, to_tensor
from .people import COMBINE
from .socket_types import CATEGORY, FaceSocket, ModelSocket

if TYPE_CHECKING:
    from .generation import Model

LARGEST_BATCH = 64
# Inputs that are images or masks, and their names in a Request.
IMAGES = {"kps_image": "kps_image", "source": "image"}
MASKS = {"mask": "control_mask", "source_mask": "mask_image"}


class Generate(io.ComfyNode):
    """Makes images of a person."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstantIDJAXGenerate",
            display_name="Generate (InstantID JAX)",
            category=CATEGORY,
            description=(
                "Makes images of a person: applies InstantID, samples and decodes, instead of "
                "Apply InstantID, KSampler and VAE Decode."
            ),
            inputs=[
                ModelSocket.Input("instantid"),
                *_prompt_inputs(),
                *_person_inputs(),
                *_sampling_inputs(),
                *_optional_inputs(),
            ],
            outputs=[
                io.Image.Output(display_name="images"),
                io.String.Output(
                    display_name="provenance",
                    tooltip="JSON: the seed of each image, and the texts that say how it was made.",
                ),
            ],
        )

    @classmethod
    def execute(cls, instantid: "Model", **inputs: Any) -> io.NodeOutput:
        generated = instantid.generate(_generation(inputs))
        provenance = json.dumps(generated.provenance, ensure_ascii=False)
        return io.NodeOutput(to_tensor(generated.images), provenance)


def _generation(inputs: dict[str, Any]) -> Generation:
    given = {name: value for name, value in inputs.items() if value is not None}
    images = {ours: read_one(name, given[name]) for name, ours in IMAGES.items() if name in given}
    images |= {ours: read_mask(name, given[name]) for name, ours in MASKS.items() if name in given}
    _check_masks(images)
    return Generation(
        prompt=given["prompt"],
        settings=settings_of(given),
        start_at=given["start_at"],
        end_at=given["end_at"],
        photos=tuple(read_images("image", given["image"])) if "image" in given else (),
        face=given.get("face"),
        combine_embeds=given["combine_embeds"],
        image_kps=read_one("image_kps", given["image_kps"]) if "image_kps" in given else None,
        images=images,
    )


def _check_masks(images: dict[str, np.ndarray]) -> None:
    for name, ours in MASKS.items():
        if ours in images and not images[ours].any():
            raise InputError(
                f"{name} is black, so nothing would count: connect another mask, or none (Load "
                "Image gives a black one for images without transparency)"
            )
    mask, source = images.get("mask_image"), images.get("image")
    if mask is None:
        return
    if source is None:
        raise InputError("source_mask without source: connect the image to paint over")
    if mask.shape != source.shape:
        sizes = [f"{width} x {height}" for height, width, _ in (mask.shape, source.shape)]
        raise InputError(
            f"source_mask has {sizes[0]} pixels, source {sizes[1]}: connect a mask of its size"
        )


def _prompt_inputs() -> list[io.Input]:
    return [
        io.String.Input("prompt", default="", multiline=True, dynamic_prompts=True),
        io.String.Input("negative_prompt", default="", multiline=True, dynamic_prompts=True),
    ]


def _person_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "ip_weight",
            default=0.8,
            min=0.0,
            max=3.0,
            step=0.01,
            tooltip="Strength of the Image Adapter, for likeness.",
        ),
        io.Float.Input(
            "cn_strength",
            default=0.8,
            min=0.0,
            max=10.0,
            step=0.01,
            tooltip="Strength of IdentityNet, for likeness and the positions of the features.",
        ),
        io.Float.Input(
            "start_at",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Where the person begins to count, from 0, pure noise.",
        ),
        io.Float.Input(
            "end_at",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.001,
            tooltip="Where the person ceases to count; 1 is the finished image.",
        ),
        io.Float.Input(
            "noise",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="Noise in the negative prompt's face, against burned images; 0.35 is usual.",
        ),
        io.Combo.Input(
            "combine_embeds",
            options=list(COMBINE),
            default="average",
            tooltip="How several photos become one person: their mean, or with equal lengths.",
        ),
    ]


def _sampling_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "seed", default=0, min=0, max=SEEDS - LARGEST_BATCH, control_after_generate=True
        ),
        io.Int.Input("steps", default=30, min=1, max=1000),
        io.Float.Input(
            "cfg",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance scale; 1 is none, and 0 the model's own: 5 for SDXL.",
        ),
        io.Combo.Input(
            "sampler_name",
            options=list(SAMPLERS),
            default=OWN_SAMPLER,
            tooltip=f"{OWN_SAMPLER} is what the model's folder says.",
        ),
        io.Combo.Input("scheduler", options=list(SCHEDULERS), default="normal"),
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How much of source to change.",
        ),
        io.Int.Input(
            "width",
            default=0,
            min=0,
            max=16384,
            step=8,
            tooltip="0 for both takes the size of source, or else the photo's aspect ratio.",
        ),
        io.Int.Input("height", default=0, min=0, max=16384, step=8),
        io.Int.Input(
            "batch_size",
            default=1,
            min=1,
            max=LARGEST_BATCH,
            tooltip="How many images; the next has the next seed.",
        ),
    ]


def _optional_inputs() -> list[io.Input]:
    return [
        io.Image.Input(
            "image", optional=True, tooltip="Photos of the person, one or a batch; or give face."
        ),
        FaceSocket.Input("face", optional=True, tooltip="The person, instead of image."),
        io.Image.Input(
            "image_kps", optional=True, tooltip="A photo whose face gives the keypoints instead."
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="White where the person counts, gray where less."
        ),
        io.Image.Input(
            "kps_image", optional=True, tooltip="Keypoints that are drawn already, instead."
        ),
        io.Image.Input(
            "source",
            optional=True,
            tooltip="An image to begin with; denoise says how much of it to change.",
        ),
        io.Mask.Input("source_mask", optional=True, tooltip="White where source is painted over."),
    ]
