"""Arguments of `instantid generate` that are of one prompt: words, settings, names of files."""

import dataclasses
from typing import Any, Self

from instantid_jax.cli.faces import FacePack, read_faces
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.request import Settings
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.styles import Style, with_style


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """Photos and other images that a picture is made of.

    Attributes:
      face: photos of one person, or .npz files of `instantid embed`; several are averaged.
      pose: a photo or .npz whose keypoints are used instead of the face's.
      image: an image to begin with; --strength says how much of it changes.
      mask_image: an image of the same size, white where that one is painted over.
      control_images: an image for each additional ControlNet.
    """

    face: tuple[str, ...] = ()
    pose: str | None = None
    image: str | None = None
    mask_image: str | None = None
    control_images: tuple[str, ...] = ()

    @property
    def drawn(self) -> dict[str, Any]:
        """The fields of a Request that are images."""
        begun = {"image": self.image, "mask_image": self.mask_image}
        fields: dict[str, Any] = {name: each for name, each in begun.items() if each is not None}
        return fields | ({"control_images": self.control_images} if self.control_images else {})

    @property
    def images(self) -> list[str]:
        """Every image but photos of faces."""
        begun = (self.image, self.mask_image)
        return [*self.control_images, *(each for each in begun if each is not None)]

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

    def check_controlnets(self, weights: Weights, recorded: int = 0) -> None:
        """Refuses other numbers of images and strengths than of ControlNets, before models load.

        A converted model alone says itself how many ControlNets it has.

        Args:
          recorded: how many images there are if none are given.
        """
        if weights.model is not None:
            return
        images = len(self.files.control_images) or recorded
        if images != len(weights.controlnets):
            raise InputError(
                f"--control-images has {images} images, --controlnets names "
                f"{len(weights.controlnets)} ControlNets: give one image for each"
            )
        self.settings.windows(1 + len(weights.controlnets))

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
