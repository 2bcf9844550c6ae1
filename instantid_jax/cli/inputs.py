"""Arguments of `instantid generate` that are of one prompt: words, settings, names of files."""

import dataclasses
from typing import Any, Self

from instantid_jax.cli.faces import FacePack, read_faces
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.request import Request, Settings
from instantid_jax.request.prompt_files import NONE
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.request import PER_NET
from instantid_jax.request.styles import Style, with_style


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """Photos and other images that a picture is made of.

    Attributes:
      face: photos of one person, or .npz files of `instantid embed`; several are averaged.
      pose: a photo or .npz whose keypoints are used instead of the face's.
      image: an image to begin with; --strength says how much of it changes.
      mask_image: an image of the same size, white where that one is painted over.
      control_images: an image for each additional ControlNet; none where one is off.
      control_mask: an image, white where IdentityNet and the Image Adapter count.
      control_masks: the same for each additional ControlNet; none where one counts everywhere.
    """

    face: tuple[str, ...] = ()
    pose: str | None = None
    image: str | None = None
    mask_image: str | None = None
    control_images: tuple[str, ...] = ()
    control_mask: str | None = None
    control_masks: tuple[str, ...] = ()

    @property
    def drawn(self) -> dict[str, Any]:
        """The fields of a Request that are images, without those that are not given."""
        names = ("image", "mask_image", "control_mask")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in PER_NET:
            each = [None if path.lower() == NONE else path for path in getattr(self, name)]
            fields[name] = each or None
        return {name: value for name, value in fields.items() if value is not None}

    @property
    def images(self) -> list[str]:
        """Every image but photos of faces."""
        given = (value if isinstance(value, list) else [value] for value in self.drawn.values())
        return [path for paths in given for path in paths if path is not None]

    def people(self, weights: Weights, pack: FacePack) -> dict[str, Face]:
        """The fields of a Request that are faces; finds and measures them in photos."""
        people: dict[str, Face] = {}
        if self.face:
            people["face"] = weights.person(self.face, pack)
        if self.pose is not None:
            people["pose"] = read_faces([self.pose], pack)[0]
        return people


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Words, settings and names of files for the images of one prompt; see `generate`."""

    settings: Settings
    prompt: str | None
    style: Style | None
    files: Files

    @property
    def words(self) -> dict[str, str | None]:
        """The prompts that a style adds to."""
        return {"prompt": self.prompt, "negative_prompt": self.settings.negative_prompt}

    def in_style(self) -> Self:
        """These inputs with the words of their style added."""
        if self.style is None:
            return self
        words = with_style(self.style, self.words)
        settings = dataclasses.replace(self.settings, negative_prompt=words["negative_prompt"])
        return dataclasses.replace(self, prompt=words["prompt"], settings=settings, style=None)

    def check_controlnets(self, weights: Weights, recorded: Request | None = None) -> None:
        """Refuses other numbers of images and strengths than of ControlNets, before models load.

        A converted model alone says itself how many ControlNets it has.

        Args:
          recorded: has the images if none are given.
        """
        if weights.model is not None:
            return
        count = len(weights.controlnets)
        for name in PER_NET:
            given = len(self.files.drawn.get(name, ()))
            # Without --like, a ControlNet that is named is to be used.
            needed = name == "control_images" and recorded is None
            if not given and recorded is not None:
                given = len(getattr(recorded, name))
            if given != count and (given or needed):
                where = "is off" if name == "control_images" else "counts everywhere"
                raise InputError(
                    f"--{name.replace('_', '-')} has {given} images, --controlnets names {count} "
                    f"ControlNets: give one image for each, or {NONE} where one {where}"
                )
        self.settings.windows(1 + count)

    def facts(self, pack: FacePack, recorded: Provenance | None = None) -> dict[str, Any]:
        """Facts that an image records in addition to its request.

        Args:
          recorded: how the image was made that this one is like.
        """
        facts: dict[str, Any] = {"face_files": list(self.files.face), "face_pack": pack.name}
        if recorded is not None and not self.files.face:
            facts = {name: recorded.facts.get(name) for name in facts}
        if self.style is not None:
            facts["style"] = {"name": self.style.name, **self.words}
        elif recorded is not None and recorded.facts.get("style") is not None:
            before = recorded.request
            if self.words == {name: getattr(before, name) for name in self.words}:
                facts["style"] = recorded.facts["style"]
        return facts
