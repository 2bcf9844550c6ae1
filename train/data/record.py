"""One training example as it is stored: a picture, its captions, and the face in it."""

import dataclasses
import hashlib
import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

# A JPEG's first and last two bytes. OpenCV fills a file that was cut off with grey and goes on.
_JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
# OpenCV's flags for decoding smaller; the colour ones name BGR as well.
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}


class CorruptRecord(Exception):
    """A record that training cannot use; the text says why."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A picture with one face, measured.

    Boxes and keypoints are in pixels of `image` as stored, x before y. Sizes are (height, width).

    Attributes:
      image: JPEG bytes, upright RGB.
      captions: text by its source, such as `alt` or `blip2`; may be empty.
      embedding: [E] float32, the recognizer's raw output, not normalised; E is 512 for antelopev2.
      kps: [5, 2] float32, in the order of `instantid_jax.Face.kps`.
      bbox: [4] float32, left, top, right, bottom; may reach beyond the picture.
      det_score: the detector's confidence.
      original_size: of the picture before anybody resized it, for SDXL's micro-conditioning.
      sharpness: of the face, see `train.data.faces.sharpness`.
      reference_embeddings: [K, E] float32, of other photos of the person; K may be 0.
      identity: the person's name, or empty.
      nsfw, license: as the source has them, or empty.
      key: the example's name in its source.
      sha256: of `image`, in hex; a picture that does not match it is corrupt. Empty: not checked.
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
        """The example that `features` serialises."""
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
        """Reads what a TFDS data source gives with the picture left as bytes.

        Raises:
          CorruptRecord: if a field is missing, of another shape, or holds no usable numbers.
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
        """Refuses what training would choke on, the pixels aside.

        Raises:
          CorruptRecord: naming the first field that is wrong.
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
        """(height, width) of the picture, from its header.

        Raises:
          CorruptRecord: if the bytes are no JPEG.
        """
        try:
            with Image.open(io.BytesIO(self.image), formats=["JPEG"]) as header:
                return header.height, header.width
        except (OSError, SyntaxError, ValueError) as error:
            raise CorruptRecord("the image is not a JPEG file") from error

    def picture(self, reduction: int = 1) -> np.ndarray:
        """The pixels: uint8 [H, W, 3] RGB.

        Args:
          reduction: 1, 2, 4 or 8; how many times smaller the picture is decoded, rounded up, which
            takes less time.
        Raises:
          CorruptRecord: if the bytes are no whole JPEG or do not match `sha256`.
        """
        if self.sha256 and picture_hash(self.image) != self.sha256:
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
    """The TFDS features of a record whose recognizer gives `embedding_size` numbers."""
    feature = tfds.features
    text = {name: feature.Text() for name in ("identity", "nsfw", "license", "key", "sha256")}
    return feature.FeaturesDict(
        {
            "image": feature.Image(shape=(None, None, 3), encoding_format="jpeg"),
            # A dict of unknown keys is no TFDS feature.
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


def picture_hash(image: bytes) -> str:
    """`Record.sha256` of a picture's bytes."""
    return hashlib.sha256(image).hexdigest()


def is_whole_jpeg(image: bytes) -> bool:
    """Whether bytes begin and end as a JPEG does."""
    return image.startswith(_JPEG_START) and image.endswith(_JPEG_END)
