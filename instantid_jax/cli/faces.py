"""Faces on the command line: photos, or files that `instantid embed` wrote."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.face import Face


@dataclasses.dataclass(frozen=True, kw_only=True)
class FacePack:
    """Which insightface models find and measure faces in photos.

    Attributes:
      face_pack: a folder, or the name of a pack in insightface's own.
      download_face_pack: fetch the pack where it is missing; its licence is printed first.
    """

    face_pack: str = "antelopev2"
    download_face_pack: bool = False

    def analyzer(self) -> FaceAnalyzer:
        return _analyzer(self)


@functools.cache
def _analyzer(pack: FacePack) -> FaceAnalyzer:
    return FaceAnalyzer(pack.face_pack, download=pack.download_face_pack)


def person(sources: Sequence[str], pack: FacePack) -> Face:
    """One person from photos and `.npz` files."""
    return Face.mean(
        [
            Face.load(source)
            if Path(source).suffix.lower() == ".npz"
            else pack.analyzer().analyze(source)
            for source in sources
        ]
    )
