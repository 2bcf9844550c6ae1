"""`python -m benchmarks.prepare`: measures images per second and core of `train.prepare`.

Times one worker, a process with one thread, and its parts on drawn portraits as JPEGs in a tar.
`--face-pack` selects another pack than the miniature's, whose networks are far smaller than
antelopev2's.
"""

import contextlib
import functools
import io
import json
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import cv2

from benchmarks import recording
from benchmarks.recording import command, environment
from instantid_jax.cli.entry import entry
from instantid_jax.face.analysis import FaceAnalyzer
from miniature.portraits import draw_random
from train.data.writing import ShardWriter
from train.prepare import measuring
from train.prepare.filtering import Filter
from train.prepare.inputs import find_shards
from train.prepare.record_settings import RecordSettings
from train.prepare.shard import write_shard

RESULTS = recording.RESULTS / "prepare.json"
FACE_PACK = Path(__file__).parents[1] / "instantid_jax" / "embedded" / "faces"


def main(
    face_pack: str = str(FACE_PACK),
    height: int = 1024,
    width: int = 768,
    pictures: int = 200,
    record: bool = False,
) -> None:
    """Times one worker.

    Args:
      face_pack: folder, or name of a pack in insightface's folder.
      height: height of the pictures in pixels.
      width: width of the pictures in pixels.
      pictures: number of pictures; two dozen distinct ones repeat.
      record: append the result to benchmarks/results/prepare.json.
    """
    about = environment("insightface", "onnxruntime", "opencv-python", "pillow", "array_record")
    cv2.setNumThreads(1)
    settings = RecordSettings(
        face_pack=face_pack,
        filter=Filter(min_side=0, min_face_share=0, min_det_score=0, min_sharpness=0),
    )
    analyzer = settings.analyzer()
    with tempfile.TemporaryDirectory() as folder, _timed() as seconds:
        _write_tar(Path(folder) / "00000.tar", (width, height), pictures)
        (shard,) = find_shards(Path(folder))
        start = time.process_time()
        contents, _ = write_shard(Path(folder) / "records", shard, settings, analyzer)
        total = time.process_time() - start
    result: dict[str, Any] = {
        "face_pack": Path(face_pack).name,
        "size": [height, width],
        "pictures": pictures,
        "kept": len(contents.sizes),
        "pictures_per_second_and_core": round(pictures / total, 2),
        "milliseconds": {name: round(1e3 * s / pictures, 2) for name, s in seconds.items()}
        | {"in_all": round(1e3 * total / pictures, 2)},
        **about,
        "command": command("benchmarks.prepare"),
    }
    print(json.dumps(result, indent=1))
    if record:
        recording.write(RESULTS, [*recording.read(RESULTS, []), result])


def _write_tar(path: Path, size: tuple[int, int], pictures: int) -> None:
    different = []
    for seed in range(24):
        buffer = io.BytesIO()
        draw_random(seed, size).image.save(buffer, format="JPEG", quality=90)
        different.append(buffer.getvalue())
    with tarfile.open(path, "w") as tar:
        for i in range(pictures):
            data = different[i % len(different)]
            info = tarfile.TarInfo(f"{i:09}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@contextlib.contextmanager
def _timed() -> Iterator[dict[str, float]]:
    """Collects CPU seconds of the parts inside the context."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(name: str, function: Callable) -> Callable:
        @functools.wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **options)
            finally:
                seconds[name] += time.process_time() - start

        return call

    with contextlib.ExitStack() as stack:
        for owner, attribute, name in (
            (measuring, "upright_jpeg", "decode"),
            (FaceAnalyzer, "find", "detect"),
            (FaceAnalyzer, "crop", "align"),
            (FaceAnalyzer, "embed", "recognize"),
            (ShardWriter, "write", "write"),
        ):
            function = timed(name, getattr(owner, attribute))
            stack.enter_context(mock.patch.object(owner, attribute, function))
        yield seconds


if __name__ == "__main__":
    import tyro

    with entry("benchmarks.prepare"):
        tyro.cli(main, prog="python -m benchmarks.prepare")
