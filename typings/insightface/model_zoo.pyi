"""The part of insightface 2.1's model zoo that `instantid_jax/face/analysis.py` uses."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

class SCRFD:
    taskname: str
    session: InferenceSession
    use_kps: bool
    static_input_size: tuple[int, int] | None
    def detect(
        self, img: np.ndarray, input_size: tuple[int, int], *, det_thresh: float
    ) -> tuple[np.ndarray, np.ndarray]: ...

class ArcFaceONNX:
    taskname: str
    session: InferenceSession
    input_size: tuple[int, int]
    def get_feat(self, imgs: list[np.ndarray]) -> np.ndarray: ...

class Landmark:
    taskname: str

class Attribute:
    taskname: str

class INSwapper: ...

def get_model(
    name: str, *, providers: Sequence[str], sess_options: SessionOptions
) -> SCRFD | ArcFaceONNX | Landmark | Attribute | INSwapper | None: ...
def has_model_package_manifest(path: str | Path) -> bool: ...
