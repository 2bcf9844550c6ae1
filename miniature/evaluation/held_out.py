"""Held-out people, and scores of pictures of them."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer, NoFaceError
from instantid_jax.face.face import Face
from miniature.drawing.scene import random_scene, scene_generator
from miniature.drawing.traits import random_traits
from miniature.evaluation.classifier import classify, features, load_classifier
from miniature.evaluation.fidelity import face_sharpness, frechet_distance
from miniature.evaluation.learned import learned_captions
from miniature.evaluation.scores import Faces, caption_accuracy, keypoint_error
from miniature.faces.identification import identification
from miniature.portraits import Portrait, draw

SEED = 701
JUDGE = Path(__file__).parent / "judge.onnx"
# Number of failed detections allowed, in addition to the number of people requested.
MISSED = 20


class Case(NamedTuple):
    """A task for the model.

    Attributes:
      photos: photos of the person, each in its own scene.
      target: a possible perfect result: the person in the scene that the prompt names. Its caption
        is not in the training data.
    """

    photos: tuple[Portrait, ...]
    target: Portrait


def draw_case(seed: int, number: int, photos: int = 1) -> Case:
    """Draws case `number` of a seed; its target does not depend on the number of photos."""
    key = [SEED, seed, number]
    traits = random_traits(np.random.default_rng(key))
    random = scene_generator(key, 0)
    asked = random_scene(random)
    while asked.caption in learned_captions():
        asked = random_scene(random)
    others = (random_scene(scene_generator(key, 1 + i)) for i in range(photos))
    return Case(tuple(draw(traits, scene) for scene in others), draw(traits, asked))


class HeldOut:
    """Cases, with their faces as the face pack and the judge analyze them.

    Attributes:
      cases: the cases in whose photos the pack finds a face.
      faces: the pack's `Face`s of each case's photos, the model's input.
    """

    def __init__(self, people: int, seed: int, pack: Path, photos: int = 1, judge: Path = JUDGE):
        """Draws cases until there are enough.

        Args:
          people: number of cases.
          pack: the model's face pack; its detector.onnx also finds the faces for the judge.
          photos: photos per person.
          judge: the recognizer that scores.
        Raises:
          InputError: if a file is missing, or the pack finds too few faces.
        """
        detector = pack / "detector.onnx"
        if not detector.is_file():
            raise InputError(f"{detector} is missing: expected a face pack like the miniature's")
        if not judge.is_file():
            raise InputError(f"{judge} is missing: expected a recognizer's .onnx file")
        analyzer = FaceAnalyzer(pack)
        self.cases: list[Case] = []
        self.faces: list[list[Face]] = []
        number = 0
        while len(self.cases) < people:
            if number >= MISSED + 2 * people:
                raise InputError(
                    f"{pack} finds a face in {len(self.cases)} of {number} drawn people's photos: "
                    "is it a pack for photographs?"
                )
            case = draw_case(seed, number, photos)
            number += 1
            try:
                found = [analyzer.analyze(photo.image) for photo in case.photos]
            except NoFaceError:
                continue
            self.cases.append(case)
            self.faces.append(found)
        # A folder that outlives this call: insightface opens a detector again for each new size.
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder)
        for file in (detector, judge):
            shutil.copy(file, folder)
        self._judge = FaceAnalyzer(folder)
        self._classifier = load_classifier()
        photos_drawn = _pixels(case.photos[0].image for case in self.cases)
        self._references = self._look(case.photos[0].image for case in self.cases).embeddings
        self._drawn_features = features(self._classifier, photos_drawn)
        self._boxes = np.stack([case.target.bbox for case in self.cases])
        self._drawn_sharpness = float(np.median(face_sharpness(self.targets, self._boxes)))

    @property
    def targets(self) -> np.ndarray:
        """The targets' pixels, uint8 [N, H, W, 3]."""
        return _pixels(case.target.image for case in self.cases)

    def score(self, pictures: Iterable[Image.Image]) -> dict[str, float]:
        """Scores one picture per case, in order.

        The Frechet distance is to the cases' first photos, which show other scenes.
        """
        pictures = list(pictures)
        pixels = _pixels(pictures)
        found = self._look(pictures)
        asked = np.stack([case.target.kps for case in self.cases])
        answers = classify(self._classifier, pixels)
        return {
            **identification(self._references, found.embeddings, found.found),
            "detection_rate": float(found.found.mean()),
            "keypoint_error": keypoint_error(found, asked, pictures[0].width),
            "caption_accuracy": caption_accuracy(answers, [c.target.caption for c in self.cases]),
            "face_sharpness": self.relative_sharpness(pixels),
            "frechet_distance": frechet_distance(
                features(self._classifier, pixels), self._drawn_features
            ),
        }

    def relative_sharpness(self, pixels: np.ndarray) -> float:
        """Median sharpness in the requested faces' boxes, relative to the targets'.

        Args:
          pixels: one picture per case, uint8 [N, H, W, 3].
        """
        return float(np.median(face_sharpness(pixels, self._boxes)) / self._drawn_sharpness)

    def _look(self, pictures: Iterable[Image.Image]) -> Faces:
        faces = [face for _, face in self._judge.analyze_each(pictures)]
        found = np.array([isinstance(face, Face) for face in faces])
        embeddings = np.zeros((len(faces), 512), np.float32)
        kps = np.zeros((len(faces), 5, 2), np.float32)
        for i in np.flatnonzero(found):
            embeddings[i], kps[i] = faces[i].embedding, faces[i].kps
        return Faces(found, embeddings, kps)


def _pixels(pictures: Iterable[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])
