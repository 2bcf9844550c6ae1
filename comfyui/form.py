"""The form that asks a service for images: `POST /v1/images/edits`."""

from typing import Any

from instantid_jax.errors import InputError

from .generation import Generation
from .images import encode_png

# The service's names of the images of a request.
FILES = {
    "image": "source",
    "mask_image": "mask",
    "control_mask": "control_mask",
    "kps_image": "kps_image",
}
# Settings that are widgets of the node, so that the service's own defaults do not count.
SETTINGS = (
    "ip_adapter_scale",
    "controlnet_conditioning_scale",
    "negative_id_noise",
    "num_inference_steps",
    "seed",
)
# These are left to the service where the widget leaves them to the model.
OPTIONAL = ("guidance_scale", "scheduler", "strength")

# A file's field, its name, bytes and type.
File = tuple[str, tuple[str, bytes, str]]


def form_of(generation: Generation) -> tuple[dict[str, str], list[File]]:
    """The fields and files of the form.

    Raises:
      InputError: for what the service does not take.
    """
    _check(generation)
    settings = generation.settings
    given = {name: getattr(settings, name) for name in (*SETTINGS, *OPTIONAL)}
    fields: dict[str, Any] = {
        "prompt": generation.prompt,
        "negative_prompt": settings.negative_prompt or "",
        "n": settings.num_images_per_prompt,
        "size": "auto" if settings.height is None else f"{settings.width}x{settings.height}",
        # As shares of the steps, which they are where these are evenly spaced.
        "ip_adapter_start": generation.start_at,
        "ip_adapter_end": generation.end_at,
        "control_guidance_start": generation.start_at,
        "control_guidance_end": generation.end_at,
        "response_format": "b64_json",
        "output_format": "png",
        "stream": "true",
    }
    fields |= {name: value for name, value in given.items() if value is not None}
    files = [("image[]", photo) for photo in generation.photos]
    files += [(FILES[name], pixels) for name, pixels in generation.images.items()]
    if generation.image_kps is not None:
        files.append(("pose", generation.image_kps))
    return (
        {name: str(value) for name, value in fields.items()},
        [
            (name, (f"{i}.png", encode_png(pixels), "image/png"))
            for i, (name, pixels) in enumerate(files)
        ],
    )


def _check(generation: Generation) -> None:
    if generation.face is not None:
        raise InputError("a service takes photos: connect them to image, and nothing to face")
    if generation.combine_embeds != "average" and len(generation.photos) > 1:
        raise InputError(
            f"combine_embeds={generation.combine_embeds!r}: a service averages photos; choose "
            "average"
        )
