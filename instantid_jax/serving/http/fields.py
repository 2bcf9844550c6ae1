"""Fields of a request: OpenAI's, those of a `Request`, and files; checked and typed."""

import contextlib
import dataclasses
import functools
import json
import re
import secrets
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from instantid_jax.errors import InputError
from instantid_jax.request.aliases import refuse_unknown
from instantid_jax.request.checks import (
    check_flag,
    check_text,
    check_whole,
    shortened,
)
from instantid_jax.request.settings import CHECKS, SEEDS, Settings
from instantid_jax.request.styles import find_style
from instantid_jax.serving.http.errors import FieldError
from instantid_jax.serving.http.forms import Form
from instantid_jax.serving.http.limits import Limits

MODEL = "instantid"
FORMATS = ("png", "jpeg", "webp")

# Files, and the fields of a Request that they become; photos become faces.
IMAGES = {
    "source": "image",
    "mask": "mask_image",
    "kps_image": "kps_image",
    "control_mask": "control_mask",
    "control_images": "control_images",
    "control_masks": "control_masks",
}
PHOTOS = ("image", "pose")
FILES = frozenset((*PHOTOS, *IMAGES))
MASKS = frozenset(("mask", "control_mask", "control_masks"))
LISTS = frozenset(("image", "control_images", "control_masks"))

# Fields of OpenAI's API that mean nothing here, and why.
IGNORED = {
    "background": "images are opaque",
    "quality": "num_inference_steps sets it",
    "input_fidelity": "ip_adapter_scale sets it",
    "moderation": "there is none",
    "user": "tokens tell users apart",
    "safety_identifier": "tokens tell users apart",
}
# Names that other APIs have for fields of ours.
OTHERS = {
    "face": "image",
    "photo": "image",
    "init_image": "source",
    "mask_image": "mask",
    "pose_image": "pose",
    "num_images": "n",
}
# Fields of a Request that are too large for a form.
LARGE = ("latents", "prompt_embeds", "negative_prompt_embeds")


def _choice(choices: Sequence[str], name: str, value: Any) -> str:
    if value not in choices:
        raise InputError(f"{name}={shortened(value)}: expected one of {', '.join(choices)}")
    return value


def _base64_alone(name: str, value: Any) -> str:
    if value != "b64_json":
        raise InputError(
            f"{name}={shortened(value)}: expected b64_json; no images are kept under addresses"
        )
    return value


# OpenAI's fields and our own; None is left to the defaults of `Fields`.
OWN: dict[str, Callable[[str, Any], Any]] = {
    "prompt": check_text,
    "model": check_text,
    "n": partial(check_whole, low=1, high=1024),
    "size": check_text,
    "response_format": _base64_alone,
    "output_format": partial(_choice, FORMATS),
    "output_compression": partial(check_whole, low=0, high=100),
    "stream": check_flag,
    "partial_images": partial(check_whole, low=0, high=3),
    "style": check_text,
    "face_id": check_text,
    "kps": lambda name, value: value,
    "image_embeds": lambda name, value: value,
}
SETTINGS = tuple(name for name in CHECKS if name != "num_images_per_prompt")
NAMES = (*OWN, *CHECKS, *sorted(FILES), *IGNORED)
TEXTS = {"prompt", "model", "size", "response_format", "output_format", "style", "face_id"}
TEXTS |= {"user", "safety_identifier"}
# Names here by those of a Request.
_OURS = {field: name for name, field in IMAGES.items()} | {"num_images_per_prompt": "n"}


@functools.cache
def _kinds() -> dict[str, tuple[Any, ...]]:
    """The types that each setting takes."""
    hints = typing.get_type_hints(Settings)
    unions = (types.UnionType, typing.Union)
    return {
        name: typing.get_args(hints[name])
        if typing.get_origin(hints[name]) in unions
        else (hints[name],)
        for name in CHECKS
    }


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Fields:
    """A body's wishes, checked.

    Attributes:
      request: fields of a Request, without images and faces.
      size: as it was written; None if it was not.
      files: those of each field, in their order.
      ignored: fields without effect, and why.
    """

    request: dict[str, Any]
    files: dict[str, list[bytes | None]]
    size: str | None
    face_id: str | None
    output_format: str
    output_compression: int | None
    stream: bool
    partial_images: int
    ignored: dict[str, str]


def read_fields(form: Form, limits: Limits, defaults: Settings) -> Fields:
    """Checks the fields of a body.

    Args:
      defaults: of settings that it does not give.
    Raises:
      FieldError: for a field that is unknown, wrong or missing.
    """
    _refuse_unknown((*form.values, *form.files))
    given = {name: _typed(name, value, form.encoded) for name, value in form.values.items()}
    given = {name: value for name, value in given.items() if value is not None}
    if "num_images_per_prompt" in given:
        given.setdefault("n", given.pop("num_images_per_prompt"))
    ignored = {name: reason for name, reason in IGNORED.items() if name in given}
    if given.get("model", MODEL) != MODEL:
        ignored["model"] = f"this server has one model, {MODEL}"
    own = {name: _checked(name, given[name], check) for name, check in OWN.items() if name in given}
    settings = {
        name: _checked(name, given[name], CHECKS[name]) for name in SETTINGS if name in given
    }
    _check_limits(own, settings, limits)
    _check_files(form.files, own, limits)
    request = {
        **_defaults(defaults, settings, form.files),
        # The same request makes other images every time, as users of such services expect.
        "seed": secrets.randbelow(SEEDS - limits.images),
        **settings,
        **{name: own[name] for name in ("prompt", "kps", "image_embeds") if name in own},
        "num_images_per_prompt": own.get("n", 1),
    }
    if "style" in own:
        request |= _styled(own["style"], request, ignored)
    return Fields(
        request=request,
        files=form.files,
        size=own.get("size"),
        face_id=own.get("face_id"),
        output_format=own.get("output_format", "png"),
        output_compression=own.get("output_compression"),
        stream=own.get("stream", False),
        partial_images=own.get("partial_images", 0),
        ignored=ignored,
    )


@contextlib.contextmanager
def naming_fields() -> Iterator[None]:
    """Gives errors of a whole request the field that their first word names as `param`.

    Raises:
      FieldError: instead of an InputError.
    """
    try:
        yield
    except FieldError:
        raise
    except InputError as error:
        message = str(error)
        word = re.split(r"\W", message, maxsplit=1)[0]
        name = _OURS.get(word, word)
        if name not in NAMES:
            raise
        raise FieldError(name + message.removeprefix(word), name) from error


def _defaults(
    defaults: Settings, given: Mapping[str, Any], files: Mapping[str, list[bytes | None]]
) -> dict[str, Any]:
    """The defaults that fit what is given."""
    values = defaults.values()
    unfit = {"height", "width"}
    steps = {"num_inference_steps", "timesteps", "sigmas"}
    if steps & given.keys():
        unfit |= steps
    if not any(files.get("source", ())):
        unfit |= {"strength", "denoising_start"}
    if "strength" in given or "denoising_start" in given:
        unfit |= {"strength", "denoising_start"}
    if not any(files.get("mask", ())):
        unfit |= {"mask_blur", "padding_mask_crop"}
    return {name: value for name, value in values.items() if name not in unfit}


def _refuse_unknown(names: Sequence[str]) -> None:
    for name in names:
        if name in NAMES:
            continue
        if name in LARGE:
            raise FieldError(f"{name} is not taken over HTTP", name)
        if name in OTHERS:
            raise FieldError(f"unknown argument {name}: did you mean {OTHERS[name]}?", name)
        try:
            refuse_unknown([name[:100]], NAMES)
        except InputError as error:
            raise FieldError(str(error), name[:100], "unknown_parameter") from error


def _typed(name: str, value: Any, encoded: bool) -> Any:
    """A value of JSON; of a form, what its texts stand for. None was not given."""
    if not encoded:
        return value
    kinds = _kinds().get(name, ())
    literal = name in TEXTS or str in kinds or tuple[str, ...] in kinds
    values = [text if literal else _decoded(text) for text in value]
    if len(values) == 1:
        return values[0]
    if any(typing.get_origin(kind) is tuple for kind in kinds):
        return values
    raise FieldError(f"{name} was given {len(values)} times: give it once", name)


def _decoded(text: str) -> Any:
    """Numbers, truth values and lists that a text stands for; other texts as they are."""
    text = text.strip()
    if not text:
        return None
    folded = text.lower()
    if folded in ("true", "false"):
        return folded == "true"
    for read in (json.loads, float):
        try:
            return read(text)
        except (ValueError, RecursionError):
            continue
    return text


def _checked(name: str, value: Any, check: Callable[[str, Any], Any]) -> Any:
    try:
        return check(name, value)
    except InputError as error:
        raise FieldError(str(error), name) from error


def _check_limits(own: Mapping[str, Any], settings: Mapping[str, Any], limits: Limits) -> None:
    if "prompt" not in own:
        raise FieldError("no prompt: say what to show", "prompt", "missing_required_parameter")
    most = {
        "n": (own.get("n", 1), limits.images),
        "num_inference_steps": (settings.get("num_inference_steps", 1), limits.steps),
        "timesteps": (len(settings.get("timesteps", ())), limits.steps),
        "sigmas": (len(settings.get("sigmas", ())), limits.steps),
    }
    for name, (count, limit) in most.items():
        if count > limit:
            raise FieldError(f"{name}={count}: this server makes at most {limit}", name)
    texts = {**own, **settings}
    for name, value in texts.items():
        if isinstance(value, str) and len(value) > limits.characters:
            raise FieldError(
                f"{name} has {len(value)} characters: expected at most {limits.characters}", name
            )
    if own.get("partial_images") and not own.get("stream"):
        raise FieldError("partial_images without stream: give stream=true", "partial_images")
    if {"size", "height"} <= texts.keys() or {"size", "width"} <= texts.keys():
        raise FieldError("size and height or width: give one of them", "size")


def _check_files(
    files: Mapping[str, list[bytes | None]], own: Mapping[str, Any], limits: Limits
) -> None:
    for name, each in files.items():
        if name not in LISTS and len(each) > 1:
            raise FieldError(f"{name} was given {len(each)} times: give one file", name)
        if len(each) > limits.photos:
            raise FieldError(
                f"{name} has {len(each)} files: expected at most {limits.photos}", name
            )
    if any(files.get("mask", ())) and not any(files.get("source", ())):
        raise FieldError(
            "mask without source: image is the photo of the person; give the image to repaint as "
            "source",
            "mask",
        )
    people = {
        "image": any(files.get("image", ())),
        "face_id": "face_id" in own,
        "image_embeds": "image_embeds" in own,
    }
    given = [name for name, there in people.items() if there]
    if len(given) > 1:
        raise FieldError(f"{' and '.join(given)} are given: give one person", given[0])


def _styled(
    name: str, request: Mapping[str, Any], ignored: dict[str, str]
) -> dict[str, str | None]:
    """The prompts in a style."""
    if name in ("vivid", "natural"):  # OpenAI's
        ignored["style"] = "expected the name of one of this project's styles"
        return {}
    chosen = _checked("style", name, lambda _, value: find_style(value))
    return {
        "prompt": chosen.positive(request["prompt"]),
        "negative_prompt": chosen.negative(request.get("negative_prompt")),
    }
