"""Training batches as a pure function of seed and step."""

import copy
import hashlib
import logging
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.params import Params
from train.data.batch_sizes import BatchSizes
from train.data.buckets import Interleave, Size
from train.data.config import DataConfig
from train.data.corruption import CorruptionCount
from train.data.examples import Choices, make_example
from train.data.latent_cache import LatentCache, vae_fingerprint
from train.data.reading import FaceDataset, mixed_recognizers
from train.data.record import CorruptRecord
from train.data.streams import bucket_streams

logger = logging.getLogger(__name__)

# Maps prompts to [B, 77] int32, like `instantid_jax.prompt.PromptTokenizer`.
Tokenizer = Callable[[Sequence[str]], np.ndarray]
Batch = dict[str, np.ndarray | list[str]]

# Maximum number of consecutive corrupt records in a stream.
_MAX_IN_A_ROW = 100


class Batches:
    """The batches of a run: `batch(step)` depends only on the constructor's arguments and the step.

    The only state is the count of corrupt records. A run therefore resumes from its step alone, and
    any number of processes can each read their rows of a batch without communication. Instances
    are thread-safe.

    Examples are numbered in the order of the steps, and in each by row: with one batch size, row r
    of step s is example s * global_batch_size + r. An example's random choices are a function of
    the seed and that index.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizers: Sequence[Tokenizer],
        global_batch_size: int,
        seed: int,
    ):
        """Opens the datasets.

        Args:
          tokenizers: those of text encoders 1 and 2.
          global_batch_size: examples per step, over all processes.
        Raises:
          InputError: if a dataset or its cached latents cannot be read, or the datasets' embeddings
            differ in size or come from different recognizers.
        """
        if global_batch_size < 1:
            raise InputError(f"global_batch_size={global_batch_size}: expected 1 or more")
        if seed < 0:
            raise InputError(f"seed={seed}: expected 0 or more")
        if len(tokenizers) != 2:
            raise InputError(f"{len(tokenizers)} tokenizers: expected SDXL's two")
        self.config = config
        self._seed = seed
        self._tokenizers = tuple(tokenizers)
        self._tokenizer_lock = threading.Lock()  # transformers' tokenizers are not thread-safe
        self._datasets = [FaceDataset(share.folder) for share in config.datasets]
        sizes = {dataset.embedding_size for dataset in self._datasets}
        if len(sizes) > 1:
            raise InputError(
                f"the datasets have embeddings of sizes {sorted(sizes)}: prepare all datasets of "
                "a mixture with one face pack"
            )
        self.embedding_size = sizes.pop()
        recognizers = {d.recognizer for d in self._datasets if d.recognizer is not None}
        if len(recognizers) > 1:
            raise mixed_recognizers("the datasets", recognizers)
        self.recognizer = next(iter(recognizers), None)
        self._warn_of_missing_references()
        self._caches = [
            LatentCache(share.folder, dataset, config.buckets) if config.cached_latents else None
            for share, dataset in zip(config.datasets, self._datasets, strict=True)
        ]
        self._streams, self._counts = bucket_streams(config, self._datasets, seed)
        self._sizes = BatchSizes.constant(global_batch_size)
        self._interleave = Interleave(self._counts, self._sizes, seed)
        self.corruption = CorruptionCount(config.max_corrupt_share)

    def with_sizes(self, sizes: BatchSizes) -> Self:
        """The same data in batches whose size has changed on the way.

        Each step takes the examples that follow those of the step before.
        """
        made = copy.copy(self)
        made._sizes = sizes
        made._interleave = Interleave(self._counts, sizes, self._seed)
        return made

    def _warn_of_missing_references(self) -> None:
        if not self.config.reference_probability:
            return
        for share, dataset in zip(self.config.datasets, self._datasets, strict=True):
            if not dataset.has_references:
                logger.warning(
                    "reference_probability=%g has no effect on %s, whose records have no other "
                    "photos of the person: build it with `python -m train.data.build --people`",
                    self.config.reference_probability,
                    share.folder,
                )

    @property
    def fingerprint(self) -> str:
        """Hash of the datasets' records and their order."""
        hashes = "".join(dataset.fingerprint for dataset in self._datasets)
        return hashlib.sha256(hashes.encode()).hexdigest()

    @property
    def records(self) -> int:
        """Number of records in use, which is the number of examples per epoch."""
        return int(sum(self._counts))

    def check_vae(self, vae: Params) -> None:
        """Checks that cached latents, if in use, were computed with this VAE.

        Args:
          vae: all of the VAE's parameters, float32, with any sharding.
        Raises:
          InputError: if they were computed with another encoder.
        """
        caches = [cache for cache in self._caches if cache is not None]
        fingerprint = vae_fingerprint(vae) if caches else ""
        for cache in caches:
            cache.check_vae(fingerprint)

    def bucket(self, step: int) -> Size:
        """(height, width) of a step's images."""
        return self.config.buckets[self._interleave.place(step)[0]]

    def epoch(self, step: int) -> int:
        """The epoch of a step, from 0."""
        return self._interleave.epoch(step)

    def batch(self, step: int, rows: slice | Sequence[int] = slice(None)) -> Batch:
        """Reads the given rows of a step's batch.

        Returns, for b rows, images of H x W pixels and embeddings of size E:
          images: [b, H, W, 3] uint8 RGB. With cached latents, instead:
            latent_moments: [b, H/8, W/8, 8] float16, moments of the VAE's posterior.
          keypoint_images: [b, H, W, 3] uint8 RGB, in pixels of the crop.
          input_ids, input_ids_2: [b, 77] int32.
          id_embeds: [b, E] float32, raw.
          time_ids: [b, 6] float32: original height and width, the crop's top and left in the
            resized image, target height and width (Podell et al. 2023, section 2.2).
          kps: [b, 5, 2] float32, x and y in pixels of the crop.
          face_box: [b, 4] float32, left, top, right, bottom in pixels of the crop, clipped to it.
          face_share: [b] float32, box area over crop area.
          example_index: [b] uint32, global.
          example_crc32: [b] uint32, checksum of the key and all of the above except the index; the
            same with images and with latents cached from them.
          example_ids: list of b keys.

        Raises:
          InputError: if too many records are corrupt, or a file cannot be read.
        """
        return self.collate([self.example(step, row) for row in self.rows(rows, step)])

    def rows(self, rows: slice | Sequence[int], step: int) -> Sequence[int]:
        """Resolves a slice to row indices of a step's batch.

        Raises:
          InputError: if there are none, or some lie outside the batch.
        """
        size = self._sizes.at(step)
        taken = range(size)[rows] if isinstance(rows, slice) else rows
        if not len(taken) or min(taken) < 0 or max(taken) >= size:
            raise InputError(f"{rows} are not rows of a batch of {size}")
        return taken

    def example(self, step: int, row: int) -> dict[str, Any]:
        """One row of a step's batch, without the batch axis."""
        bucket, earlier = self._interleave.place(step)
        index = self._sizes.examples_before(step) + row
        place = earlier + row
        choices = Choices(self._seed, index)
        target = self.config.buckets[bucket]
        for dataset, position in (
            self._streams[bucket][place + attempt] for attempt in range(_MAX_IN_A_ROW)
        ):
            # The stream's next intact record replaces a corrupt one.
            try:
                cache = self._caches[dataset]
                encoded = cache[position] if cache else None
                record = self._datasets[dataset][position]
                example = make_example(record, target, self.config, choices, encoded)
                break
            except CorruptRecord as error:
                name = f"record {position} of {self.config.datasets[dataset].folder}"
                self.corruption.record(name, str(error))
        else:
            raise InputError(f"{_MAX_IN_A_ROW} consecutive records are corrupt; the last is {name}")
        self.corruption.example()
        caption = example.pop("caption")
        with self._tokenizer_lock:
            ids = [tokenizer([caption])[0] for tokenizer in self._tokenizers]
        example["input_ids"], example["input_ids_2"] = ids
        crc = _crc32(example)
        del example["pixels_crc32"]
        return example | {"example_index": np.uint32(index), "example_crc32": crc}

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch:
        """Stacks examples of one step."""
        batch: Batch = {"example_ids": [example["key"] for example in examples]}
        for name in examples[0].keys() - {"key"}:
            first = np.asarray(examples[0][name])
            # np.stack would copy images twice.
            stacked = np.empty((len(examples), *first.shape), first.dtype)
            for i, example in enumerate(examples):
                stacked[i] = example[name]
            batch[name] = stacked
        return batch


def _crc32(example: Mapping[str, Any]) -> np.uint32:
    """Checksum of an example's key and arrays, to compare the data of two runs.

    Pixels enter through their own checksum, which the latent cache stores as well.
    """
    crc = zlib.crc32(example["key"].encode())
    for name in sorted(example.keys() - {"key", "images", "latent_moments"}):
        crc = zlib.crc32(np.ascontiguousarray(example[name]), crc)
    return np.uint32(crc)
