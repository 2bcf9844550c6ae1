"""The stored form of a training example: an image, its captions and its face."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# A JPEG's first and last two bytes. OpenCV silently fills truncated files with gray.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# OpenCV's flags for reduced decoding; their color variants would select BGR.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class CorruptRecord(Exception):
    """A record that training cannot use; the message gives the reason."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """An image with one analyzed face.

    Boxes and keypoints are in pixels of the stored `image`, x before y. Sizes are (height, width).

    Attributes:
      image: JPEG bytes, upright RGB.
      captions: captions by source, such as `alt` or `blip2`; may be empty.
      embedding: [E] float32, the recognizer's raw, unnormalized output; E is 512 for antelopev2.
      kps: [5, 2] float32, in the order of `instantid_jax.Face.kps`.
      bbox: [4] float32, left, top, right, bottom; may extend beyond the image.
      det_score: the detector's confidence.
      original_size: size of the image before any resize, for SDXL's micro-conditioning.
      sharpness: the face's, by `train.data.faces.sharpness`.
      reference_embeddings: [K, E] float32, of other photos of the person; K may be 0.
      identity: the person's name, or empty.
      nsfw, license: the source's values, or empty.
      key: the example's name in its source.
      sha256: hash of `image` in hex; a mismatch makes the record corrupt. Empty skips the check.
    """

    image: bytes = dataclasses.field(repr=False)
    captions: Mapping[str, str]
    embedding: np.ndarray = dataclasses.field(repr=False)
    kps: np.ndarray
    bbox: np.ndarray
    det_score: float
    original_size: tuple[int, int]
    sharpness: float
    reference_embeddings: np.ndarray = dataclasses.field(repr=False)
    identity: str = ""
    nsfw: str = ""
    license: str = ""
    key: str
    sha256: str

    def encode(self) -> dict[str, Any]:
        """The example in the structure of `features`."""
        example = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        example["captions"] = [
            {"source": source, "text": text} for source, text in self.captions.items()
        ]
        for name in ("embedding", "kps", "bbox", "reference_embeddings"):
            example[name] = np.asarray(example[name], np.float32)
        for name in ("det_score", "sharpness"):
            example[name] = np.float32(example[name])
        example["original_size"] = np.asarray(self.original_size, np.int32)
        return example

    @classmethod
    def decode(cls, example: Mapping[str, Any]) -> "Record":
        """Reads an example of a TFDS data source that skips image decoding.

        Raises:
          CorruptRecord: if a field is missing or has a wrong shape or unusable values.
        """
        try:
            captions = example["captions"]
            record = cls(
                image=example["image"],
                captions={
                    source.decode(): text.decode()
                    for source, text in zip(captions["source"], captions["text"], strict=True)
                },
                embedding=np.asarray(example["embedding"], np.float32),
                kps=np.asarray(example["kps"], np.float32),
                bbox=np.asarray(example["bbox"], np.float32),
                det_score=float(example["det_score"]),
                original_size=(int(example["original_size"][0]), int(example["original_size"][1])),
                sharpness=float(example["sharpness"]),
                reference_embeddings=np.asarray(example["reference_embeddings"], np.float32),
                **{
                    name: example[name].decode()
                    for name in ("identity", "nsfw", "license", "key", "sha256")
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise CorruptRecord(f"its fields cannot be read ({error})") from error
        record.check()
        return record

    def check(self) -> None:
        """Checks all fields except the pixels.

        Raises:
          CorruptRecord: names the first wrong field.
        """
        size = self.embedding.size
        shapes = {"embedding": (size,), "kps": (5, 2), "bbox": (4,)}
        shapes["reference_embeddings"] = (len(self.reference_embeddings), size)
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape:
                raise CorruptRecord(f"{name} has shape {list(value.shape)}, not {list(shape)}")
            if not np.isfinite(value).all():
                raise CorruptRecord(f"{name} holds NaN or infinity")
        if not self.embedding.any():
            raise CorruptRecord("embedding is all zeros")
        if np.abs(self.kps).max() > 2**20 or np.abs(self.bbox).max() > 2**20:
            raise CorruptRecord("keypoints or box are a million pixels away")
        if min(self.original_size) < 1:
            raise CorruptRecord(f"original_size is {list(self.original_size)}")

    def size(self) -> tuple[int, int]:
        """(height, width) of the image, from its header.

        Raises:
          CorruptRecord: if the bytes are not a JPEG file.
        """
        try:
            with Image.open(io.BytesIO(self.image), formats=["JPEG"]) as header:
                return header.height, header.width
        except (OSError, SyntaxError, ValueError) as error:
            raise CorruptRecord("the image is not a JPEG file") from error

    def pixels(self, reduction: int = 1) -> np.ndarray:
        """Decodes the image: uint8 [H, W, 3] RGB.

        Args:
          reduction: 1, 2, 4 or 8; divides the decoded size, rounding up, to save time.
        Raises:
          CorruptRecord: if the bytes are not a complete JPEG file or do not match `sha256`.
        """
        if self.sha256 and image_hash(self.image) != self.sha256:
            raise CorruptRecord("the image does not match its sha256")
        if not is_whole_jpeg(self.image):
            raise CorruptRecord("the image is a truncated JPEG file")
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[reduction]
        try:
            pixels = cv2.imdecode(np.frombuffer(self.image, np.uint8), flags)
        except cv2.error as error:
            raise CorruptRecord("the image cannot be decoded") from error
        if pixels is None:
            raise CorruptRecord("the image cannot be decoded")
        return pixels


def features(embedding_size: int = 512) -> tfds.features.FeaturesDict:
    """The TFDS features of a record with embeddings of `embedding_size`."""
    feature = tfds.features
    text = {name: feature.Text() for name in ("identity", "nsfw", "license", "key", "sha256")}
    return feature.FeaturesDict(
        {
            "image": feature.Image(shape=(None, None, 3), encoding_format="jpeg"),
            # TFDS has no feature for a dict of arbitrary keys.
            "captions": feature.Sequence({"source": feature.Text(), "text": feature.Text()}),
            "embedding": feature.Tensor(shape=(embedding_size,), dtype=np.float32),
            "kps": feature.Tensor(shape=(5, 2), dtype=np.float32),
            "bbox": feature.Tensor(shape=(4,), dtype=np.float32),
            "det_score": feature.Scalar(np.float32),
            "original_size": feature.Tensor(shape=(2,), dtype=np.int32),
            "sharpness": feature.Scalar(np.float32),
            "reference_embeddings": feature.Tensor(shape=(None, embedding_size), dtype=np.float32),
            **text,
        }
    )


def image_hash(image: bytes) -> str:
    """`Record.sha256` of an image's bytes."""
    return hashlib.sha256(image).hexdigest()


def is_whole_jpeg(image: bytes) -> bool:
    """Whether bytes begin and end like a JPEG file."""
    return image.startswith(_JPEG_START) and image.endswith(_JPEG_END)
