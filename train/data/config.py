"""Configuration of the training data."""

import dataclasses

from instantid_jax.errors import InputError
from train.data.buckets import MULTIPLE, Size, aspect_buckets
from train.data.crop import CropPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetShare:
    """One dataset of a mixture.

    Attributes:
      folder: output of `python -m train.data.build`, or a folder of several of these; a path, or
        an address such as s3://bucket/faces.
      weight: its share of the examples relative to the other datasets' weights, whatever its number
        of records.
    """

    folder: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionShare:
    """A caption source.

    Attributes:
      source: name of the source in the records, such as alt.
      weight: its weight relative to a record's other sources.
    """

    source: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training data.

    Attributes:
      datasets: the datasets to mix.
      buckets: (height, width) of the training images, multiples of 32. A record belongs to the
        bucket with the nearest aspect ratio. `aspect_buckets(512)` has SDXL's five ratios at 512
        pixels.
      captions: caption sources to use; empty uses all with equal probability. A record without any
        of them trains with the empty caption.
      crop: "random" draws any window that contains the face; "center" takes the most central one.
        Images are never mirrored, because faces are not symmetric.
      cached_latents: read the output of `python -m train.data.latents` instead of decoding and
        encoding images. Needs the "center" crop.
      reference_probability: probability of taking the ID embedding from another photo of the
        person, if the record has any.
      min_side: skip records whose image has a shorter side than this.
      max_corrupt_share: fail when the share of corrupt records exceeds this. The share is of the
        examples read so far, but of at least a thousand.
    """

    datasets: tuple[DatasetShare, ...]
    buckets: tuple[Size, ...] = aspect_buckets(1024)
    captions: tuple[CaptionShare, ...] = ()
    crop: CropPolicy = "random"
    cached_latents: bool = False
    reference_probability: float = 0.0
    min_side: int = 0
    max_corrupt_share: float = 0.01

    def __post_init__(self):
        if not self.datasets:
            raise InputError("datasets is empty: give at least one folder")
        for share in (*self.datasets, *self.captions):
            if not 0 < share.weight < float("inf"):
                raise InputError(f"{share} has weight {share.weight}: expected a positive number")
        if not self.buckets or len(set(self.buckets)) != len(self.buckets):
            raise InputError(f"buckets={self.buckets}: expected one or more distinct sizes")
        for height, width in self.buckets:
            if min(height, width) < MULTIPLE or height % MULTIPLE or width % MULTIPLE:
                raise InputError(
                    f"bucket {height} x {width}: both sides must be multiples of {MULTIPLE}"
                )
        if self.crop not in ("random", "center"):
            raise InputError(f"crop={self.crop!r}: expected 'random' or 'center'")
        if self.cached_latents and self.crop != "center":
            raise InputError(
                f"cached_latents with crop={self.crop!r}: the cache holds one crop per image; "
                "set crop='center' or turn cached_latents off"
            )
        for name in ("reference_probability", "max_corrupt_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}={getattr(self, name)}: expected 0 to 1")
