"""`python -m benchmarks.input_pipeline`: measures images per second of training's data threads.

Its records are JPEGs of noise with a photograph's spectrum and file size. Prints a JSON object;
`--record` appends it to `benchmarks/results/input_pipeline.json`.
"""

import io
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from benchmarks import recording
from benchmarks.recording import command, environment
from instantid_jax.prompt import PromptTokenizer
from train.data.batches import Batches
from train.data.buckets import aspect_buckets
from train.data.config import DataConfig, DatasetShare
from train.data.loader import Loader
from train.data.reading import FaceDataset
from train.data.record import Record, image_hash
from train.data.writing import write_dataset
from train.random_model import VOCABULARY, random_model

RESULTS = recording.RESULTS / "input_pipeline.json"
CAPTION = "a photograph of a woman with red hair, smiling in front of a white house"


def measure(
    resolution: int = 1024,
    records: int = 64,
    steps: int = 24,
    batch_size: int = 8,
    threads: int = 4,
    record: bool = False,
) -> dict[str, Any]:
    """Times the loader, and the parts of one example on one core.

    Args:
      resolution: resolution of the buckets; stored images are a tenth larger.
      records: number of distinct records; they fit in memory, so the disk is not measured.
      steps: number of timed batches.
      batch_size: examples per batch.
      threads: number of threads that read examples.
      record: append the result to benchmarks/results/input_pipeline.json.
    """
    about = environment("numpy", "opencv-python", "grain", "tensorflow-datasets", "array_record")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        sizes = _write(folder / "data", resolution, records)
        model = random_model(folder)
        tokenizers = [
            PromptTokenizer(model / name, positions=77, vocabulary=VOCABULARY)
            for name in ("tokenizer", "tokenizer_2")
        ]
        share = DatasetShare(folder=str(folder / "data"))
        config = DataConfig(datasets=(share,), buckets=aspect_buckets(resolution))
        batches = Batches(config, tokenizers, batch_size, 0)
        dataset = FaceDataset(folder / "data")
        loader = Loader(batches, threads=threads)
        for _ in range(3):
            next(loader)
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            next(loader)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        loader.close()
        parts = _parts(dataset, batches)
    images = steps * batch_size
    result = {
        "images_per_second": round(images / seconds, 1),
        "cpu_ms_per_image": round(1e3 * cpu / images, 2),
        "jpeg_share": round(parts["decode_jpeg"] / parts["whole_example"], 3),
        "one_core_ms": {name: round(value, 2) for name, value in parts.items()},
        "resolution": resolution,
        "jpeg_kilobytes": round(float(np.mean(sizes)) / 1000),
        "batch_size": batch_size,
        "threads": threads,
        **about,
        "command": command("benchmarks.input_pipeline"),
    }
    if record:
        recording.write(RESULTS, [*recording.read(RESULTS, []), result])
    return result


def _parts(dataset: FaceDataset, batches: Batches) -> dict[str, float]:
    """CPU milliseconds of the parts of one example, in a single thread."""
    rows = range(min(32, len(dataset)))
    records = [dataset[row] for row in rows]
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    parts = {
        "read": _mean_ms(lambda i: dataset[i], len(rows)),
        "check_sha256": _mean_ms(lambda i: image_hash(records[i].image), len(rows)),
        "decode_jpeg": _mean_ms(
            lambda i: cv2.imdecode(np.frombuffer(records[i].image, np.uint8), flags), len(rows)
        ),
        "whole_example": _mean_ms(
            lambda i: batches.example(*divmod(i, batches.global_batch_size)), len(rows)
        ),
    }
    cv2.setNumThreads(before)
    return parts


def _mean_ms(call: Callable[[int], Any], count: int) -> float:
    for i in range(min(4, count)):
        call(i)
    start = time.process_time()
    for i in range(count):
        call(i)
    return 1e3 * (time.process_time() - start) / count


def _write(folder: Path, resolution: int, count: int) -> list[int]:
    """Writes the records; returns their images' sizes in bytes."""
    rng = np.random.default_rng(0)
    buckets = aspect_buckets(resolution)
    made = []
    for i in range(count):
        height, width = (round(1.1 * side) for side in buckets[i % len(buckets)])
        kps = np.array([[-1, -1], [1, -1], [0, 0], [-0.8, 1], [0.8, 1]]) * 0.08 * resolution
        kps += [width / 2, height / 2]
        image = _photograph(rng, height, width)
        made.append(
            (
                Record(
                    image=image,
                    captions={"alt": CAPTION},
                    embedding=rng.normal(size=512).astype(np.float32),
                    kps=kps,
                    bbox=np.concatenate([kps.min(0), kps.max(0)]),
                    det_score=0.9,
                    original_size=(height, width),
                    sharpness=100.0,
                    reference_embeddings=np.zeros((0, 512), np.float32),
                    key=f"{i:05}",
                    sha256=image_hash(image),
                ),
                (height, width),
            )
        )
    write_dataset(folder, made, shards=2)
    return [len(record.image) for record, _ in made]


def _photograph(rng: np.random.Generator, height: int, width: int) -> bytes:
    """A JPEG of noise with a photograph's spectrum."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    channels = []
    for _ in range(3):
        spectrum = np.fft.rfft2(rng.normal(size=(height, width))) / frequency**1.4
        noise = np.fft.irfft2(spectrum, (height, width))
        channels.append(noise / noise.std())
    # Color varies less than brightness.
    pixels = 128 + 50 * (channels[0][..., None] + 0.2 * np.stack(channels, -1))
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def main() -> None:
    import tyro

    print(json.dumps(tyro.cli(measure, prog="python -m benchmarks.input_pipeline")))


if __name__ == "__main__":
    main()
