"""`python -m train.data.latents`: caches the latents of a dataset's images for training."""

import contextlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from instantid_jax.params import Network, Params
from instantid_jax.sharding import batch_sharding, replicated, training_mesh
from instantid_jax.weights.layouts import find_network, find_vae
from train.data.buckets import Size, aspect_buckets
from train.data.config import DataConfig, DatasetShare
from train.data.corruption import CorruptionCount
from train.data.examples import Choices, make_example
from train.data.latent_cache import DTYPE, EncodedImage, vae_fingerprint, write_latents
from train.data.reading import FaceDataset
from train.data.record import CorruptRecord
from train.objective import image_moments

_THREADS = 8


def latents(
    dataset: tyro.conf.Positional[Path],
    sdxl: str | None = None,
    vae: str | None = None,
    variant: str | None = None,
    resolution: int = 1024,
    buckets: tuple[Size, ...] = (),
    batch_size: int = 8,
    max_corrupt_share: float = 0.01,
) -> None:
    """Computes a dataset's latents, for training with cached_latents and the center crop.

    Args:
      dataset: output of `python -m train.data.build`.
      sdxl: the run's model, whose VAE is used: diffusers folder, single file, or hub id.
      vae: the run's VAE, if it is not SDXL's own.
      variant: suffix of the weight files to load, such as "fp16".
      resolution: resolution of the buckets, as in aspect_buckets(resolution).
      buckets: heights and widths of the run's data.buckets, if they are others.
      batch_size: images per device and batch.
      max_corrupt_share: fail when the share of corrupt records, of at least a thousand, exceeds
        this.
    """
    if vae is not None:
        component = find_network(vae, "vae", variant=variant)
    elif sdxl is not None:
        component = find_vae(sdxl, variant=variant)
    else:
        raise InputError("no model given: pass the run's model as --sdxl or its VAE as --vae")
    if batch_size < 1:
        raise InputError(f"--batch-size {batch_size}: expected 1 or more")
    config = DataConfig(
        datasets=(DatasetShare(folder=str(dataset)),),
        buckets=buckets or aspect_buckets(resolution),
        crop="center",
        max_corrupt_share=max_corrupt_share,
    )
    manifest = cache_latents(
        config, component.network, component.load(jnp.dtype("float32")), batch_size
    )
    missing = f"; skipped {manifest['missing']} corrupt records" if manifest["missing"] else ""
    print(f"wrote latents of {manifest['pictures']} images to {dataset}{missing}")


def cache_latents(
    config: DataConfig, vae: Network, params: Params, batch_size: int
) -> dict[str, Any]:
    """Writes the latent cache of a configuration's only dataset, and returns its manifest.

    Args:
      config: must have the "center" crop.
      params: the VAE's, float32.
      batch_size: images per device and batch.
    Raises:
      InputError: if the dataset cannot be read, already has a cache or has too many corrupt
        records, or latents overflow the cache's dtype.
    """
    (share,) = config.datasets
    dataset = FaceDataset(share.folder)
    encoded = _encoded(config, dataset, vae, params, batch_size)
    return write_latents(share.folder, dataset, config.buckets, vae_fingerprint(params), encoded)


def _encoded(
    config: DataConfig, dataset: FaceDataset, vae: Network, params: Params, batch_size: int
) -> Iterator[tuple[int, EncodedImage]]:
    """Encodes all usable images, bucket by bucket."""
    from tqdm import tqdm

    mesh = training_mesh((-1, 1, 1), jax.local_devices())
    params = jax.device_put(params, replicated(mesh))
    size = batch_size * len(mesh.devices.flat)
    corruption = CorruptionCount(config.max_corrupt_share)

    @jax.jit
    def encode(params: Params, images: jax.Array) -> jax.Array:
        # By default TPUs and recent GPUs round the operands of float32 products.
        with jax.default_matmul_precision("highest"):
            return image_moments(vae, params, images).astype(DTYPE)

    with tqdm(total=len(dataset), unit=" images", disable=None) as progress:
        for target in config.buckets:
            crops = _crops(config, dataset, target, corruption)
            while batch := list(islice(crops, size)):
                images = np.stack([pixels for _, pixels, _ in batch])
                # Repeated images fill the last batch, so that each bucket compiles once.
                padded = np.resize(images, (size, *images.shape[1:]))
                moments = np.asarray(encode(params, jax.device_put(padded, batch_sharding(mesh))))
                for (row, _, crc32), each in zip(batch, moments, strict=False):
                    if not np.isfinite(each).all():
                        raise InputError(
                            f"latents of record {row} of {config.datasets[0].folder} overflow "
                            f"{np.dtype(DTYPE).name}: the VAE's weights may be damaged; "
                            "check --vae"
                        )
                    yield row, EncodedImage(each, crc32)
                progress.update(len(batch))


def _crops(
    config: DataConfig, dataset: FaceDataset, target: Size, corruption: CorruptionCount
) -> Iterator[tuple[int, np.ndarray, np.uint32]]:
    """Row, pixels and checksum of each usable record of a bucket."""
    rows = np.flatnonzero(dataset.bucket(config.buckets) == config.buckets.index(target))
    source = grain.MapDataset.source(_Crops(config, dataset, target, rows))
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=4 * _THREADS)
    with contextlib.closing(iter(source.to_iter_dataset(options))) as examples:
        for row, example in zip(rows.tolist(), examples, strict=True):
            if isinstance(example, CorruptRecord):
                corruption.record(f"record {row} of {config.datasets[0].folder}", str(example))
            else:
                corruption.example()
                yield row, example["images"], example["pixels_crc32"]


class _Crops:
    """A grain source of one bucket's examples; a corrupt record gives its exception."""

    def __init__(self, config: DataConfig, dataset: FaceDataset, target: Size, rows: np.ndarray):
        self._config = config
        self._dataset = dataset
        self._target = target
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> dict[str, Any] | CorruptRecord:
        try:
            record = self._dataset[self._rows[i]]
            # Random choices do not affect a center crop.
            return make_example(record, self._target, self._config, Choices(0, 0))
        except CorruptRecord as error:
            return error


def main(args: Sequence[str] | None = None) -> None:
    """Runs the program. Exit status: 2 after bad input."""
    with entry("train.data.latents"):
        tyro.cli(latents, args=args, prog="python -m train.data.latents")


if __name__ == "__main__":
    main()
