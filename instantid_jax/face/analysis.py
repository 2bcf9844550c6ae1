"""Face detection and recognition by insightface and onnxruntime.

Follows InstantID's `infer.py`: detection at 640 x 640 on BGR pixels, the largest face by area.
"""

import contextlib
import functools
import io
import itertools
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face
from instantid_jax.face.orientation import is_upright, quarter_turns
from instantid_jax.face.packs import (
    INSIGHTFACE_ROOT,
    LICENSE,
    PackNotFoundError,
    find_pack,
    onnx_files,
    pack_folder,
    recognizer_hash,
)
from instantid_jax.images import ImageInput, image_name, read_image
from instantid_jax.paths import local_path

if TYPE_CHECKING:
    from insightface.model_zoo import SCRFD, ArcFaceONNX
    from onnxruntime import SessionOptions

logger = logging.getLogger(__name__)

Photo = TypeVar("Photo", bound=ImageInput)
# InstantID was trained with 640. A face that fills the photo is often found only at a smaller size.
DETECTION_SIZES = (640, 576, 512, 448, 384, 320, 256, 192)
# Number of faces recognized together.
BATCH = 32


class NoFaceError(InputError):
    """No face was found in a photo."""


class FoundFace(NamedTuple):
    """A detected face before recognition.

    Attributes:
      crop: uint8 [S, S, 3] RGB, from `aligned_crop`.
      box: [5], left, top, right and bottom in pixels of the photo, and the detector's score.
      kps: [5, 2].
      image_size: (height, width) of the photo.
    """

    crop: np.ndarray
    box: np.ndarray
    kps: np.ndarray
    image_size: tuple[int, int]

    def measured(self, embedding: np.ndarray, face_pack: str, recognizer: str) -> Face:
        return Face(
            embedding=embedding,
            kps=self.kps,
            image_size=self.image_size,
            bbox=self.box[:4],
            det_score=self.box[4],
            face_pack=face_pack,
            recognizer=recognizer,
        )


class FaceAnalyzer:
    """Detects faces in photos and computes their ID embeddings.

    Args:
      pack: the face pack: a folder, or the name of one under `root`/models. InstantID's published
        weights only work with antelopev2's embeddings.
      det_sizes: detection sizes in pixels, multiples of 32: sides of the square that the photo is
        fitted into. Tried in this order until a face is found.
      providers: onnxruntime's execution providers. Defaults to the CPU, because JAX reserves the
        accelerator's memory.
      download: whether to download a missing pack with insightface's downloader. Logs its license,
        `packs.LICENSE`, first.
      root: insightface's folder of packs.
      threads: onnxruntime threads for each of the two networks; None uses all cores.
      recognizer: `.onnx` file of a recognizer to use instead of the pack's.

    Raises:
      InputError: if the pack is not found, does not have exactly one detector with keypoints and
        one recognizer, or a file cannot be read or downloaded.
    """

    def __init__(
        self,
        pack: str | os.PathLike[str] = "antelopev2",
        *,
        det_sizes: Sequence[int] = DETECTION_SIZES,
        providers: Sequence[str] = ("CPUExecutionProvider",),
        download: bool = False,
        root: str | os.PathLike[str] = INSIGHTFACE_ROOT,
        threads: int | None = None,
        recognizer: str | os.PathLike[str] | None = None,
    ):
        if not det_sizes or any(size < 32 or size % 32 for size in det_sizes):
            raise InputError(f"det_sizes={list(det_sizes)}: expected multiples of 32, such as 640")
        try:
            self.folder = find_pack(pack, root)
        except PackNotFoundError:
            if not download:
                raise
            _download(os.fspath(pack), root)
            self.folder = find_pack(pack, root)
        self._detector, self._recognizer, self._recognizer_file = _load_models(
            self.folder, list(providers), threads, recognizer
        )
        self.det_sizes = tuple(det_sizes)
        if self._detector.static_input_size is not None:
            # insightface would silently use this size instead of the requested one.
            logger.warning(
                "the detector of %s only takes %d x %d: det_sizes is ignored",
                self.folder,
                *self._detector.static_input_size,
            )
            self.det_sizes = self._detector.static_input_size[:1]

    def analyze(self, image: ImageInput) -> Face:
        """The largest face in a photo, by box area.

        Raises:
          InputError: if the photo cannot be read.
          NoFaceError: if no face is found in it.
        """
        found = self._largest(image)
        return self.measured([found])[0]

    def faces(self, image: ImageInput) -> list[Face]:
        """All faces in a photo, the largest first.

        Raises:
          InputError: if the photo cannot be read.
          NoFaceError: if no face is found in it.
        """
        return self.measured(self.detect(image))

    def detect(self, image: ImageInput) -> list[FoundFace]:
        """All faces in a photo, the largest first, before recognition; raises as `faces`."""
        return [self.crop(*each) for each in self._find(image)]

    def analyze_each(self, images: Iterable[Photo]) -> Iterator[tuple[Photo, Face | InputError]]:
        """Analyzes photos in turn; yields the error of a photo that fails and continues.

        Recognizes 32 faces at a time, which is faster and rounds differently.
        """
        remaining = iter(images)
        while some := list(itertools.islice(remaining, BATCH)):
            found: list[tuple[Photo, FoundFace | InputError]] = []
            for image in some:
                try:
                    found.append((image, self._largest(image)))
                except InputError as error:
                    found.append((image, error))
            faces = iter(self.measured([f for _, f in found if isinstance(f, FoundFace)]))
            for image, face in found:
                yield image, next(faces) if isinstance(face, FoundFace) else face

    def find(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detects all faces in uint8 [H, W, 3] RGB pixels, the largest first.

        Returns:
          Boxes with scores [F, 5] and keypoints [F, 5, 2]; F may be 0.
        """
        bgr = np.ascontiguousarray(pixels[..., ::-1])
        for size in self.det_sizes:
            # insightface fits the photo into the square; its resize fails for a side of 0 pixels.
            if size * min(pixels.shape[:2]) < max(pixels.shape[:2]):
                continue
            boxes, kps = self._detector.detect(bgr, input_size=(size, size), det_thresh=0.5)
            if len(boxes):
                areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
                order = np.argsort(-areas, kind="stable")
                return boxes[order], kps[order]
        return np.zeros((0, 5), np.float32), np.zeros((0, 5, 2), np.float32)

    def crop(self, pixels: np.ndarray, box: np.ndarray, kps: np.ndarray) -> FoundFace:
        """Crops a face found by `find`, as input of `embed`."""
        crop = aligned_crop(pixels, kps, self.input_side)
        return FoundFace(crop, box, kps, pixels.shape[:2])

    def measured(self, found: Sequence[FoundFace]) -> list[Face]:
        """Faces with their embeddings, computed in one batch."""
        if not found:
            return []
        embeddings = self.embed([face.crop for face in found])
        made_by = self.folder.name, self.recognizer
        return [face.measured(each, *made_by) for face, each in zip(found, embeddings, strict=True)]

    @functools.cached_property
    def recognizer(self) -> str:
        """SHA-256 of the recognizer's file, in hexadecimal."""
        return recognizer_hash(self._recognizer_file)

    def embed(self, crops: Sequence[np.ndarray]) -> np.ndarray:
        """Raw embeddings [N, D] of N crops in one batch; rounding depends on N."""
        return self._recognizer.get_feat([crop[..., ::-1] for crop in crops])

    @property
    def input_side(self) -> int:
        """Side of the recognizer's crops, in pixels."""
        return self._recognizer.input_size[0]

    @functools.cached_property
    def embedding_size(self) -> int:
        """Length of an embedding."""
        side = self.input_side
        return self.embed([np.zeros((side, side, 3), np.uint8)]).shape[1]

    def _find(self, image: ImageInput) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Pixels, box and keypoints of each face in a photo, the largest first; at least one.

        If the largest face is not upright, or there is none, the pixels may be the photo's turned.
        """
        pixels = read_image(image)
        boxes, kps = self.find(pixels)
        if not len(boxes) or not is_upright(kps[0]):
            pixels, boxes, kps = self._turned(image_name(image), pixels, boxes, kps)
        if not len(boxes):
            tried = ", ".join(map(str, self.det_sizes))
            raise NoFaceError(
                f"no face found in {image_name(image)} (detection sizes {tried}): use a photo "
                "where one face is sharp, turned to the camera, uncovered, and neither tiny nor "
                "cut off"
            )
        return [(pixels, *each) for each in zip(boxes, kps, strict=True)]

    def _turned(
        self, name: str, pixels: np.ndarray, boxes: np.ndarray, kps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The turn in which the detector is surest of an upright face, or what is given."""
        best, chosen = boxes[0, 4] if len(boxes) else 0.0, (pixels, boxes, kps)
        degrees = 0
        for turn, turned in quarter_turns(pixels).items():
            found, points = self.find(turned)
            if len(found) and is_upright(points[0]) and found[0, 4] > best:
                best, degrees, chosen = found[0, 4], turn, (turned, found, points)
        if degrees:
            logger.warning("%s: turned by %d degrees clockwise for an upright face", name, degrees)
        return chosen

    def _largest(self, image: ImageInput) -> FoundFace:
        found = self._find(image)
        if len(found) > 1:
            name = image_name(image)
            logger.warning("%d faces in %s: using the largest", len(found), name)
        return self.crop(*found[0])


def aligned_crop(pixels: np.ndarray, kps: np.ndarray, side: int) -> np.ndarray:
    """Aligns a face for the recognizer: [side, side, 3], keypoints at fixed positions.

    Args:
      pixels: uint8 [H, W, 3]; keeps the channel order.
      kps: [5, 2] pixels.
      side: 112 or another multiple of 112 or 128, in pixels.
    """
    from insightface.utils import face_align

    with warnings.catch_warnings():
        # insightface 2.1 calls a method that scikit-image 0.26 deprecates.
        warnings.filterwarnings("ignore", "`estimate` is deprecated", FutureWarning)
        return face_align.norm_crop(pixels, np.asarray(kps, np.float32), side)


def _load_models(
    folder: Path,
    providers: list[str],
    threads: int | None,
    recognizer: str | os.PathLike[str] | None,
) -> "tuple[SCRFD, ArcFaceONNX, Path]":
    """Loads insightface's detector and recognizer from a folder's `.onnx` files.

    `recognizer`, if given, replaces the folder's. Returns the recognizer's file, too.

    Does not use `FaceAnalysis`, which fails an assertion for a missing file, takes the first of two
    recognizers by name, and loads files that InstantID does not use.
    """
    # insightface first: it sets a variable that onnxruntime reads when imported.
    from insightface import model_zoo  # isort: skip
    import onnxruntime

    if model_zoo.has_model_package_manifest(folder):
        raise InputError(
            f"face pack {folder} has a manifest of version 2, which is not supported here: "
            "use a pack of plain .onnx files such as antelopev2"
        )
    unknown = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if unknown:
        raise InputError(
            f"onnxruntime has no {', '.join(unknown)} here: expected one of "
            f"{', '.join(onnxruntime.get_available_providers())}"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; its warnings about these packs are noise
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    models: dict[Path, object] = {
        path: _load_model(path, f"face pack {folder}: {path.name}", providers, options)
        for path in onnx_files(folder)
    }
    if recognizer is not None:
        models = {p: m for p, m in models.items() if not isinstance(m, model_zoo.ArcFaceONNX)}
        file = local_path(recognizer)
        if not file.is_file():
            raise InputError(f"{recognizer}: no such file; give a recognizer's .onnx file")
        models[file] = _load_model(file, str(recognizer), providers, options)
        if not isinstance(models[file], model_zoo.ArcFaceONNX):
            raise InputError(
                f"{recognizer} is not a recognizer: expected one that takes 112 x 112 pixels, such "
                "as that of a face pack"
            )
    tasks = {path.name: getattr(model, "taskname", "unknown") for path, model in models.items()}
    detectors = [model for model in models.values() if isinstance(model, model_zoo.SCRFD)]
    recognizers = [model for model in models.values() if isinstance(model, model_zoo.ArcFaceONNX)]
    keypoints = all(detector.use_kps for detector in detectors)
    if len(detectors) != 1 or len(recognizers) != 1 or not keypoints:
        held = ", ".join(f"{name} ({task})" for name, task in tasks.items())
        raise InputError(
            f"face pack {folder} holds {held}{'' if keypoints else ' without keypoints'}: expected "
            "one detector with keypoints (9 outputs) and one recognizer (input 112 x 112); "
            "add the missing file, or remove the extra one"
        )
    (detector,), (chosen,) = detectors, recognizers
    for model in (detector, chosen):
        running = model.session.get_providers()[0]
        # onnxruntime falls back silently.
        if running != providers[0]:
            raise InputError(
                f"onnxruntime could not start {providers[0]} and fell back to {running}: check the "
                "driver and the libraries that it needs, or choose the other"
            )
    (path,) = (path for path, model in models.items() if model is chosen)
    return detector, chosen, path


def _load_model(path: Path, name: str, providers: list[str], options: "SessionOptions") -> object:
    """insightface's model of an `.onnx` file; None for one of an unknown kind.

    Args:
      name: what an error calls the file.
    """
    from insightface import model_zoo

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return model_zoo.get_model(str(path), providers=providers, sess_options=options)
    # insightface and onnxruntime raise all kinds of errors for unsupported files.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{name} cannot be used ({reason}): unzip or download the pack again, or remove the "
            "file"
        ) from error


def _download(pack: str, root: str | os.PathLike[str]) -> None:
    """Downloads a pack by name with insightface's downloader, into `root`/models."""
    from insightface.utils import storage

    if pack != os.path.basename(pack):
        raise InputError(f"face pack {pack} not found: a path cannot be downloaded, only a name")
    target = pack_folder(pack, root)
    if target.parts[0].startswith("~"):
        raise InputError(f"{root} is not a known home folder: set HOME, or name another folder")
    logger.warning("downloading face pack %s to %s. %s", pack, target, LICENSE)
    target.parent.mkdir(parents=True, exist_ok=True)
    # Next to the target, so that an interrupted download leaves no partial pack there.
    with tempfile.TemporaryDirectory(prefix=".download.", dir=target.parent) as scratch:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                folder = storage.download("models", pack, root=scratch)
        # Network, server, disk or zip: requests, RuntimeError, OSError, BadZipFile.
        except Exception as error:
            raise InputError(
                f"face pack {pack} could not be downloaded ({' '.join(str(error).split())}): "
                f"download it by hand and unzip it into {target}"
            ) from error
        os.rename(folder, target)
