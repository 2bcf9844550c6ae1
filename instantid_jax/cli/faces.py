"""Faces on the command line: photos, or files that `instantid embed` wrote."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face
from instantid_jax.images import read_image


@dataclasses.dataclass(frozen=True, kw_only=True)
class FacePack:
    """Which insightface models find and measure faces in photos.

    Attributes:
      face_pack: a folder, or the name of a pack in insightface's own; None is antelopev2, or the
        embedded model's where that is used.
      download_face_pack: fetch the pack where it is missing; its license is printed first.
    """

    face_pack: str | None = None
    download_face_pack: bool = False

    @property
    def name(self) -> str:
        """The pack that is used."""
        return self.face_pack or "antelopev2"

    def analyzer(self) -> FaceAnalyzer:
        return _analyzer(self)


@functools.cache
def _analyzer(pack: FacePack) -> FaceAnalyzer:
    return FaceAnalyzer(pack.name, download=pack.download_face_pack)


def read_faces(sources: Sequence[str], pack: FacePack) -> list[Face]:
    """The face of each photo and `.npz` file."""
    photos = [source for source in sources if Path(source).suffix.lower() != ".npz"]
    for photo in photos:
        # Before the face pack is looked for: a mistyped name needs no advice about packs.
        read_image(photo)
    return [
        pack.analyzer().analyze(source) if source in photos else Face.load(source)
        for source in sources
    ]
