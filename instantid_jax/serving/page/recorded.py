"""Settings that an image records, back in the form."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request.provenance import Provenance
from instantid_jax.serving.page.form import Choices, Values, unstyled, values_of
from instantid_jax.serving.page.loras import Shelf
from instantid_jax.serving.page.uploads import check_image
from instantid_jax.serving.uploads import reading


@dataclasses.dataclass(frozen=True)
class Recorded:
    """Everything that an image file says about how it was made.

    Attributes:
      values: the form's.
      strengths: of LoRAs; None if it does not say.
      face: that it records; None if it has none.
      remarks: what cannot be restored.
    """

    values: Values
    strengths: dict[str, float] | None
    face: Face | None
    remarks: list[str]


def read_recorded(path: str, choices: Choices, shelf: Shelf, sources: Sources | None) -> Recorded:
    """Reads an image that this page, the command or AUTOMATIC1111's web UI wrote.

    Args:
      sources: the loaded model's.
    Raises:
      InputError: if the file does not say how it was made.
    """
    name = Path(path).name
    try:
        with reading:
            check_image(path)
        provenance = Provenance.read(path)
    except InputError as error:
        raise InputError(str(error).replace(path, name)) from error
    request, facts, remarks = provenance.request, provenance.facts, list[str]()
    settings = request.settings
    settings = dataclasses.replace(
        settings, seed=settings.seed + provenance.image, num_images_per_prompt=1
    )
    values = unstyled(
        values_of(settings, request.prompt, choices), facts.get("style"), choices.styles
    )
    missing = [*provenance.unrecorded]
    for field in ("image", "mask_image", "kps_image", "control_mask"):
        # Names of files, which nobody may have the server read.
        if getattr(request, field) is not None:
            missing.append(field)
    if missing:
        remarks.append(
            f"{name} was made with {', '.join(missing)}, which it does not record: give it again."
        )
    if request.pose is not None and "image" not in missing:
        remarks.append(f"{name} was made with a pose: give its photo again.")
    strengths = None
    weights = facts.get("weights")
    if weights is not None:
        strengths, unknown = shelf.strengths(weights.get("loras", ()))
        remarks += [f"{name} was made with the LoRA {each}, not loaded here." for each in unknown]
        if not _alike(weights, sources):
            remarks.append(f"{name} was made with other weights: images will differ.")
    return Recorded(values, strengths, request.face, remarks)


def _alike(weights: Mapping[str, Any], sources: Sources | None) -> bool:
    """Whether recorded weights are the loaded ones, LoRAs aside."""
    own = {} if sources is None else json.loads(json.dumps(vars(sources)))
    return {**weights, "loras": None} == {**own, "loras": None}
