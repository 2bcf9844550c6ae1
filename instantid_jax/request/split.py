"""Splits calls in diffusers' style, whose arguments may be lists, into one Request per prompt."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from instantid_jax.arrays import float_array
from instantid_jax.errors import InputError
from instantid_jax.images import ImageInput
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.request import PER_NET, Request
from instantid_jax.request.settings import CHECKS
from instantid_jax.signatures import Call, with_signature

# May be a list, with one entry for each prompt.
LISTED = (
    "prompt",
    "face",
    "negative_prompt",
    "seed",
    "prompt_2",
    "negative_prompt_2",
    "pose",
    "image",
    "control_image",
    "mask_image",
    "control_mask",
)
# May have a leading axis for the prompts; these are the ranks with it.
STACKED = {
    "kps": 3,
    "image_embeds": 2,
    "prompt_embeds": 3,
    "pooled_prompt_embeds": 2,
    "negative_prompt_embeds": 3,
    "negative_pooled_prompt_embeds": 2,
}
# With any of these, an image is what to begin with.
CHANGES = ("strength", "denoising_start", "mask_image")
# The official pipelines' name for the image of drawn keypoints. Where nothing is to be changed, it
# is `image`.
KPS_IMAGE = "control_image"
# A request's own fields come before its settings.
FIELDS = sorted(dataclasses.fields(Request), key=lambda field: field.name in CHECKS)
ARGUMENTS = tuple(KPS_IMAGE if f.name == "kps_image" else f.name for f in FIELDS)


def split(arguments: Mapping[str, Any]) -> list[Request]:
    """One request for each prompt of a call.

    Args:
      arguments: fields of Request, `control_image` instead of `kps_image`; without any of
        `CHANGES`, `image` is that too. Those of `LISTED` may be lists
        and those of `STACKED` have a leading axis, all of one length; those of `PER_NET` have for
        each ControlNet an image or a list of them; `latents` is [B * num_images_per_prompt, ...].
    Raises:
      InputError: for an unknown name, lists of different lengths, or what Request refuses.
    """
    refuse_unknown([name for name in arguments if name not in ARGUMENTS], ARGUMENTS)
    values = {name: value for name, value in arguments.items() if value is not None}
    if np.ndim(values.get("seed", 0)):
        values["seed"] = list(values["seed"])
    if not any(name in values for name in CHANGES) and "image" in values:
        if KPS_IMAGE in values:
            raise InputError(
                "image and control_image are both images of keypoints here: to begin with image, "
                "give strength, denoising_start or mask_image"
            )
        values[KPS_IMAGE] = values.pop("image")
    per_net = {name: _per_net(values.get(name, ())) for name in PER_NET}
    columns = {name: values[name] for name in LISTED if isinstance(values.get(name), list | tuple)}
    for name, rank in STACKED.items():
        if name in values and np.ndim(values[name]) >= rank:
            # A single row stands for all prompts, as a list's entry does not.
            columns[name] = list(float_array(name, values[name]))
    for name, nets in per_net.items():
        columns |= {f"{name}[{i}]": each for i, each in enumerate(nets) if _is_list(each)}
    count = _batch_size(columns)
    if "latents" in values:
        columns["latents"] = _groups(values["latents"], count)
    requests: list[Request] = []
    for i in range(count):
        chosen = {name: column[i if len(column) > 1 else 0] for name, column in columns.items()}
        images = {
            name: tuple(chosen.pop(f"{name}[{j}]", net) for j, net in enumerate(nets))
            for name, nets in per_net.items()
        }
        request: dict[str, Any] = {**values, **chosen, **images}
        if KPS_IMAGE in request:
            request["kps_image"] = request.pop(KPS_IMAGE)
        requests.append(Request(**request))
    return requests


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _per_net(images: Any) -> Sequence[ImageInput | Sequence[ImageInput | None] | None]:
    return images if _is_list(images) else [images]


def _groups(latents: Any, count: int) -> list[np.ndarray]:
    """Noise of all images, [B * n, H, W, C], as [n, H, W, C] for each prompt."""
    array = float_array("latents", latents)
    if array.ndim != 4 or len(array) % count:
        raise InputError(
            f"latents have shape {list(array.shape)}: expected [images, H/8, W/8, channels], "
            "unit-variance noise with channels last"
        )
    return np.split(array, count)


def _batch_size(columns: Mapping[str, Sequence[Any]]) -> int:
    """The one length of all lists; 1 if there is none."""
    lengths = {
        name: len(column)
        for name, column in columns.items()
        if name not in STACKED or len(column) != 1
    }
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        given = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"lists of one length are expected for a batch, got {given}")
    return next(iter(lengths.values()), 1)


def takes_requests(call: Call) -> Call:
    """Decorates a method that takes `**arguments` for `split`; gives it Request's signature."""
    first, *own = inspect.signature(call).parameters.values()
    options = [parameter for parameter in own if parameter.kind is parameter.KEYWORD_ONLY]
    taken = inspect.signature(Request).parameters
    fields = [
        taken[field.name].replace(name=name) for field, name in zip(FIELDS, ARGUMENTS, strict=True)
    ]
    return with_signature(call, inspect.Signature([first, *fields, *options]))
