"""Images on the command line, and whether there is one for each ControlNet."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.images import read_image
from instantid_jax.request import Settings
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.request import PER_NET

# Instead of an image for a ControlNet. A file of this name is ./none.
NONE = "none"


@dataclasses.dataclass(frozen=True)
class Images:
    """Images in addition to the face's.

    Attributes:
      image: an image to begin with; --strength says how much of it changes.
      mask_image: an image of the same size, white where that one is painted over.
      control_images: an image for each additional ControlNet; none where one is off.
      control_mask: an image, white where IdentityNet and the Image Adapter count.
      control_masks: the same for each additional ControlNet; none where one counts everywhere.
    """

    image: str | None = None
    mask_image: str | None = None
    control_images: tuple[str, ...] = ()
    control_mask: str | None = None
    control_masks: tuple[str, ...] = ()

    def given(self) -> dict[str, Any]:
        """Fields of a Request, without those that are not given.

        Raises:
          InputError: if an image cannot be read.
        """
        given = {name: value for name, value in vars(self).items() if value not in (None, ())}
        for name in PER_NET:
            if name in given:
                given[name] = [None if path.lower() == NONE else path for path in given[name]]
        for value in given.values():
            for path in value if isinstance(value, list) else [value]:
                if path is not None:
                    read_image(path)
        return given


def check_controlnets(
    weights: Weights,
    settings: Settings,
    images: dict[str, Any],
    recorded: Provenance | None,
) -> None:
    """Refuses other numbers of images and strengths than of ControlNets, before a model is loaded.

    A converted model alone says itself how many ControlNets it has.

    Args:
      images: as `Images.given` returns them.
    """
    if weights.model is not None:
        return
    count = len(weights.controlnets)
    for name in PER_NET:
        given: Sequence[str | None] = images.get(name, ())
        # Without --like, a ControlNet that is named is to be used.
        needed = name == "control_images" and recorded is None
        if not given and recorded is not None:
            given = getattr(recorded.request, name)
        if len(given) != count and (given or needed):
            where = "is off" if name == "control_images" else "counts everywhere"
            raise InputError(
                f"--{name.replace('_', '-')} has {len(given)} images, --controlnets names {count} "
                f"ControlNets: give one image for each, or none where one {where}"
            )
    settings.windows(1 + count)
