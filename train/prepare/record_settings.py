"""Settings of a preparation, and the plan that identifies its output."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer
from instantid_jax.face.packs import find_pack, onnx_files
from train.prepare.filtering import Filter
from train.prepare.inputs import InputShard
from train.remote.checksums import file_sha256

Provider = Literal["CPUExecutionProvider", "CUDAExecutionProvider"]
# Packages that decode images, and detect and embed faces.
PACKAGES = ("insightface", "onnxruntime", "opencv-python", "pillow", "numpy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """Face pack, captions and filters of a preparation.

    Attributes:
      face_pack: folder, or name of a pack in insightface's folder.
      provider: execution provider of onnxruntime.
      caption_source: source name of the images' captions in the records.
      filter: thresholds for images and faces.
    """

    face_pack: str = "antelopev2"
    provider: Provider = "CPUExecutionProvider"
    caption_source: str = "alt"
    filter: Filter = Filter()

    def analyzer(self) -> FaceAnalyzer:
        # One thread each: processes share the cores, and results do not depend on their number.
        return FaceAnalyzer(self.face_pack, providers=(self.provider,), threads=1)


def plan(settings: RecordSettings, shards: Sequence[InputShard]) -> dict[str, Any]:
    """All that determines the output's bytes: settings, input, face pack and package versions.

    The input is identified by its files' names and sizes; hashing it would take as long as a run.
    """
    folder, analyzer = find_pack(settings.face_pack), settings.analyzer()
    try:
        files = [[(n, (shard.root / n).stat().st_size) for n in shard.names] for shard in shards]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    return {
        **{f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)},
        "face_pack": {path.name: file_sha256(path) for path in onnx_files(folder)},
        "filter": dataclasses.asdict(settings.filter),
        "embedding_size": analyzer.embedding_size,
        "recognizer": analyzer.recognizer,
        "shards": len(shards),
        "input": hashlib.sha256(json.dumps(files).encode()).hexdigest(),
        "versions": {name: version(name) for name in PACKAGES},
    }
