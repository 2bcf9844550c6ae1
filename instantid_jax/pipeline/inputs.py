"""The arguments of a call, brought to the arrays that the programs take."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face, output_size
from instantid_jax.pictures import Picture, read_picture

Value = TypeVar("Value")

# Arguments of diffusers' and the official pipelines under other names, and what stands for them.
ELSEWHERE = {
    "adapter_strength_ratio": "ip_adapter_scale",
    "cfg_scale": "guidance_scale",
    "conditioning_scale": "controlnet_conditioning_scale",
    "control_image": "control_images",
    "face_emb": "image_embeds",
    "face_embedding": "image_embeds",
    "face_image": "face",
    "face_kps": "kps",
    "generator": "seed",
    "identitynet_strength_ratio": "controlnet_conditioning_scale",
    "image_kps": "pose",
    "ip_adapter_image": "face",
    "keypoints": "kps",
    "num_images": "num_images_per_prompt",
    "num_steps": "num_inference_steps",
    "pose_image": "pose",
    "sampler": "scheduler",
    "steps": "num_inference_steps",
}


def refuse_unknown(unknown: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuses arguments that are not taken, naming the nearest of ours."""
    for name in unknown:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
        nearest = ELSEWHERE.get(name) or (near[0] if near else None)
        hint = f"did you mean {nearest}?" if nearest else f"expected one of {', '.join(known)}"
        raise InputError(f"unknown argument {name}: {hint}")


def batched(value: Value | Sequence[Value], count: int, name: str) -> list[Value]:
    """One value for each of `count` prompts: a single one stands for all."""
    if not isinstance(value, list | tuple):
        return [value] * count
    if len(value) != count:
        raise InputError(
            f"{name} has {len(value)} entries, the call makes {count} pictures: give one for each, "
            "or one alone for all"
        )
    return list(value)


def batch_size(**values: Any) -> int:
    """The one length of all arguments that are lists; 1 where none is.

    Raises:
      InputError: if two lists have different lengths, or one is empty.
    """
    lengths = {name: len(v) for name, v in values.items() if isinstance(v, list | tuple)}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        told = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise InputError(f"lists of one length are expected for a batch, got {told}")
    return next(iter(lengths.values()), 1)


def check_number(name: str, value: Any, low: float, high: float = float("inf")) -> float:
    """A finite number in [low, high]."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high or not np.isfinite(number):
        between = f"at least {low:g}" if high == float("inf") else f"from {low:g} to {high:g}"
        raise InputError(f"{name}={value!r}: expected a number {between}")
    return number


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name}={value!r}: expected a whole number")
    if not low <= value <= high:
        raise InputError(f"{name}={value}: expected {low} to {high}")
    return int(value)


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """Height and width in pixels, multiples of 8."""
    for name, value in (("height", height), ("width", width)):
        check_whole(name, value, 8, 16384)
        if value % 8:
            raise InputError(
                f"{name}={value} is no multiple of 8: take {value // 8 * 8} or {-(-value // 8) * 8}"
            )
    return int(height), int(width)


def choose_size(
    height: int | None, width: int | None, faces: Sequence[Face | None], side: int
) -> tuple[int, int]:
    """The output's height and width: as given, else by the photos' aspect ratio.

    Args:
      side: long side where nothing is given, the size the model was trained for.
    """
    if (height is None) != (width is None):
        raise InputError(f"height={height}, width={width}: give both or neither")
    if height is not None:
        return check_size(height, width)
    sizes = {face.image_size for face in faces if face is not None and face.image_size is not None}
    wanted = {output_size(size, long_side=side) for size in sizes}
    if len(wanted) > 1:
        raise InputError(
            f"the photos ask for pictures of {len(wanted)} different sizes: give height and width"
        )
    return next(iter(wanted), (side, side))


def pair(name: str, value: Any) -> tuple[int, int]:
    """Two whole numbers, (height, width) or (top, left)."""
    try:
        first, second = value
    except (TypeError, ValueError):
        raise InputError(f"{name}={value!r}: expected two whole numbers") from None
    low = -65536
    return check_whole(name, first, low, 65536), check_whole(name, second, low, 65536)


def time_ids(
    size: tuple[int, int],
    original_size: tuple[int, int] | None,
    crops_coords_top_left: tuple[int, int],
    target_size: tuple[int, int] | None,
    prefix: str = "",
) -> np.ndarray:
    """SDXL's micro-conditioning of one picture: [6] float32, each pair (height, width)."""
    pairs = {
        "original_size": size if original_size is None else original_size,
        "crops_coords_top_left": crops_coords_top_left,
        "target_size": size if target_size is None else target_size,
    }
    return np.array([n for name, v in pairs.items() for n in pair(prefix + name, v)], np.float32)


def control_picture(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """A picture for a ControlNet, [H, W, 3] uint8, resized as diffusers does (Lanczos)."""
    pixels = read_picture(picture)
    if pixels.shape[:2] == size:
        return pixels
    height, width = size
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(resized)


def per_controlnet(
    name: str, value: Any, count: int, low: float, high: float = float("inf")
) -> list[float]:
    """One number for each ControlNet, IdentityNet first: a single one stands for all."""
    values = value if isinstance(value, list | tuple) else [value] * count
    if len(values) != count:
        raise InputError(
            f"{name} has {len(values)} entries for {count} ControlNets: give one number, or one "
            "for each, IdentityNet's first"
        )
    return [check_number(name, item, low, high) for item in values]


def residual_scales(
    residuals: Sequence[int],
    steps: int,
    conditioning_scale: Any,
    start: Any,
    end: Any,
    *,
    guess_mode: bool,
    guidance: bool,
    batch: int,
) -> np.ndarray:
    """What each ControlNet's residuals are multiplied by at each step.

    A net counts at step i of T when start <= i/T and (i+1)/T <= end. In guess mode the scales rise
    from a tenth to one over the residuals, and the negative half gets none.

    Args:
      residuals: how many each net makes; they must agree.
    Returns:
      [T, nets, residuals, rows] float32; rows [negative, positive] under guidance.
    Source: diffusers' StableDiffusionXLControlNetPipeline.__call__, ControlNetModel.forward.
    """
    nets = len(residuals)
    scales = per_controlnet("controlnet_conditioning_scale", conditioning_scale, nets, 0)
    starts = per_controlnet("control_guidance_start", start, nets, 0, 1)
    ends = per_controlnet("control_guidance_end", end, nets, 0, 1)
    for first, last in zip(starts, ends, strict=True):
        if first >= last:
            raise InputError(
                f"control_guidance_start={first:g} must be below control_guidance_end={last:g}"
            )
    i = np.arange(steps)
    keep = np.array(
        [
            (i / steps >= first) & ((i + 1) / steps <= last)
            for first, last in zip(starts, ends, strict=True)
        ]
    ).T  # [T, nets]
    depth = np.logspace(-1, 0, residuals[0]) if guess_mode else np.ones(residuals[0])
    rows = np.ones(2 * batch if guidance else batch)
    if guidance and guess_mode:
        rows[:batch] = 0
    strength = keep * np.array(scales)
    return (strength[:, :, None, None] * depth[:, None] * rows).astype(np.float32)
