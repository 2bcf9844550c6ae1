"""What training reads, and how a record becomes an example."""

import dataclasses

from instantid_jax.errors import InputError
from train.data.buckets import MULTIPLE, Size, aspect_buckets
from train.data.crop import CropPolicy


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetShare:
    """One dataset of a mixture.

    Attributes:
      folder: what `python -m train.data.build` wrote, or a folder with several of these as parts.
      weight: its share of the examples, relative to the other datasets' weights; how many records
        it has does not matter.
    """

    folder: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionShare:
    """How often one source's caption is taken, relative to the others that a record has."""

    source: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training data.

    Attributes:
      datasets: the mixture.
      buckets: (height, width) of the pictures trained on, multiples of 32; each record goes to the
        nearest aspect ratio. `aspect_buckets(512)` gives SDXL's five ratios at 512 pixels.
      captions: sources to take captions from; empty takes all with equal chance. A record with
        none of them has the empty caption.
      crop: `random` moves the window anywhere that keeps the face inside; `center` keeps it as
        near to the middle as the face allows. Nothing is mirrored: a face is not symmetric.
      cached_latents: what `python -m train.data.latents` computed is read in place of pictures,
        which saves decoding and encoding them; needs the `center` crop.
      reference_probability: how often the ID is another photo's of the same person, where the
        record has such references.
      min_side: records whose picture has a shorter side than this are left out.
      max_corrupt_share: a run ends when more of the examples read so far (of the first thousand,
        before that) had to be replaced.
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
