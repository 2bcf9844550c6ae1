"""Images on the command line, and whether there is one for each ControlNet."""

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


def given_images(images: dict[str, str | None], **per_net: tuple[str, ...]) -> dict[str, Any]:
    """Fields of a Request, without those that are not given.

    Args:
      images: paths by field.
      per_net: for each ControlNet a path, or none, by field.
    Raises:
      InputError: if an image cannot be read.
    """
    several: dict[str, list[str | None]] = {
        name: [None if path.lower() == NONE else path for path in paths]
        for name, paths in per_net.items()
        if paths
    }
    one = {name: path for name, path in images.items() if path is not None}
    for path in (*one.values(), *(path for paths in several.values() for path in paths)):
        if path is not None:
            read_image(path)
    return {**one, **several}


def check_controlnets(
    weights: Weights,
    settings: Settings,
    images: dict[str, Any],
    recorded: Provenance | None,
) -> None:
    """Refuses other numbers of images and strengths than of ControlNets, before a model is loaded.

    A converted model alone says itself how many ControlNets it has.

    Args:
      images: as `given_images` returns them.
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
