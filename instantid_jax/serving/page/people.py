"""A person from several uploads: the faces found, the chosen ones, and how alike they are."""

import dataclasses
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer, NoFaceError
from instantid_jax.face.face import Face
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.serving.page.uploads import read_face_file, read_upload

# Photos of one person, at most.
PHOTOS = 16
# Faces of one photo that are offered.
FACES = 8
# A cosine below it suggests somebody else; photos of one person usually have more.
STRANGER = 0.35
# Side of the picture of a face that came without a photo.
TILE = 112


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """An upload, with the faces in it.

    Attributes:
      name: its file's.
      faces: the largest first.
      pictures: one of each face, upright.
      chosen: the index of the face that is used.
    """

    name: str
    faces: tuple[Face, ...]
    pictures: tuple[Image.Image, ...]
    chosen: int = 0

    @classmethod
    def of_face(cls, face: Face, name: str) -> Self:
        """A face without a photo, shown by its keypoints."""
        low, high = face.kps.min(0), face.kps.max(0)
        scale = 0.5 * TILE / max(float((high - low).max()), 1.0)
        kps = (face.kps - (low + high) / 2) * scale + TILE / 2
        return cls(name, (face,), (Image.fromarray(draw_keypoints(TILE, TILE, kps)),))

    @property
    def face(self) -> Face:
        return self.faces[self.chosen]


@dataclasses.dataclass(frozen=True, eq=False)
class Person:
    """One person, of whom there may be no photo yet."""

    sources: tuple[Source, ...] = ()

    @property
    def face(self) -> Face | None:
        """The mean of the chosen faces; None without any.

        Raises:
          InputError: for faces that cannot be averaged.
        """
        return Face.mean([source.face for source in self.sources]) if self.sources else None

    @property
    def names(self) -> list[str]:
        return [source.name for source in self.sources]

    def choose(self, index: int) -> "Person":
        """The same person with another face of a photo, by its place in `tiles`."""
        sources = list(self.sources)
        for i, source in enumerate(sources):
            if 0 <= index < len(source.faces):
                sources[i] = dataclasses.replace(source, chosen=index)
                break
            index -= len(source.faces)
        return Person(tuple(sources))

    def likeness(self) -> list[float | None]:
        """The cosine of each chosen face to the mean of the others; None if there are none."""
        faces = [source.face for source in self.sources]
        if len(faces) < 2:
            return [None] * len(faces)
        return [
            face.similarity(Face.mean(faces[:i] + faces[i + 1 :])) for i, face in enumerate(faces)
        ]

    def tiles(self) -> list[tuple[Image.Image, str]]:
        """A picture and a caption of every face."""
        tiles = []
        for source, cosine in zip(self.sources, self.likeness(), strict=True):
            for i, picture in enumerate(source.pictures):
                caption = source.name
                if len(source.faces) > 1:
                    caption += f", face {i + 1}"
                if i != source.chosen:
                    caption += " (click to use)"
                else:
                    caption = f"✓ {caption}" + ("" if cosine is None else f" · {cosine:.2f}")
                tiles.append((picture, caption))
        return tiles

    def remarks(self) -> list[str]:
        """Lists what the user should know about the photos."""
        remarks = []
        for source, cosine in zip(self.sources, self.likeness(), strict=True):
            if len(source.faces) > 1:
                remarks.append(
                    f"{source.name} has {len(source.faces)} faces: click the one to use."
                )
            if cosine is not None and cosine < STRANGER:
                remarks.append(
                    f"{source.name} may show somebody else: its cosine to the other photos is "
                    f"{cosine:.2f}, and {STRANGER} or more is usual for one person."
                )
        return remarks


class Analyst:
    """Finds and measures faces in uploads, one at a time.

    Args:
      drawn_only: refuse faces that the detector does not recognize as drawn ones, as the embedded
        model needs it.
    """

    def __init__(self, analyzer: FaceAnalyzer, drawn_only: bool = False):
        self._analyzer = analyzer
        self._drawn_only = drawn_only
        # One photo keeps all cores busy; insightface does not promise more.
        self._lock = threading.Lock()

    def person(self, paths: Sequence[str]) -> tuple[Person, list[str]]:
        """The person in photos and face files, and why others are left out."""
        sources, refused = [], []
        if len(paths) > PHOTOS:
            refused.append(f"{len(paths)} photos: the first {PHOTOS} are used.")
        for path in paths[:PHOTOS]:
            try:
                source = self.source(path)
                # Faces that cannot be averaged are refused with the last one.
                Face.mean([each.face for each in (*sources, source)])
                sources.append(source)
            except InputError as error:
                refused.append(str(error))
        return Person(tuple(sources)), refused

    def source(self, path: str) -> Source:
        """The faces of one upload.

        Raises:
          InputError: if it cannot be read or has no face that the model takes.
        """
        name = Path(path).name
        if Path(path).suffix.lower() == ".npz":
            return Source.of_face(read_face_file(path), name)
        pixels = read_upload(path)
        try:
            with self._lock:
                found = self._analyzer.detect(pixels)[:FACES]
                faces = self._analyzer.measured(found)
        except NoFaceError as error:
            raise NoFaceError(str(error).replace("the image", name, 1)) from error
        if self._drawn_only:
            embedded.check_drawn(faces[0], name)
        pictures = tuple(Image.fromarray(each.crop) for each in found)
        return Source(name, tuple(faces), pictures)

    def likeness(self, face: Face, image: Image.Image) -> float | None:
        """The cosine of a face to the most alike one in an image; None if none is found."""
        try:
            with self._lock:
                faces = self._analyzer.faces(np.asarray(image.convert("RGB")))
        except NoFaceError:
            return None
        comparable = [each for each in faces if each.embedding.shape == face.embedding.shape]
        return max((face.similarity(each) for each in comparable), default=None)


def draw_pose(face: Face, side: int) -> Image.Image:
    """The keypoints as IdentityNet sees them, in an image with the photo's aspect ratio."""
    height, width = face.image_size or (side, side)
    scale = side / max(height, width)
    size = max(8, round(height * scale)), max(8, round(width * scale))
    return Image.fromarray(draw_keypoints(*size, face.kps_for(*size)))
