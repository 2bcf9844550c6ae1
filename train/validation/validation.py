"""Measures a run on validation records, and samples images of them."""

from pathlib import Path

from jax.sharding import Mesh

from train.config import TrainConfig
from train.model import BaseModel
from train.state import TrainState
from train.step import Constants
from train.validation.captions import CaptionScores
from train.validation.faces import FaceScores
from train.validation.images import ValidationImages
from train.validation.judge import Judge
from train.validation.loss import ValidationLoss
from train.validation.records import ValidationRecords


class Validation:
    """Measures a run's weights, the moving average if there is one.

    Nothing that it does affects the run.
    """

    def __init__(self, config: TrainConfig, base: BaseModel, mesh: Mesh):
        """Reads the records.

        Args:
          config: its `validation` must be set.
        Raises:
          InputError: if there are too few records, or they do not fit the model, or a network that
            measures images cannot be read.
        """
        records = ValidationRecords(config, base.tokenizers, base.networks.image_proj)
        self._every = config.validation.every
        judges: list[Judge] = []
        if config.validation.face_pack is not None:
            judges.append(FaceScores(config.validation, records.shown, records.recognizer))
        if config.validation.clip is not None:
            judges.append(CaptionScores(config.validation.clip, records.shown))
        self._images = ValidationImages(config, base, records.shown, judges)
        self._loss = None
        if records.measured:
            self._loss = ValidationLoss(config, base.networks, mesh, records.measured)

    def is_due(self, step: int) -> bool:
        return step % self._every == 0

    def measure(
        self, step: int, state: TrainState, constants: Constants, picture: Path
    ) -> dict[str, float]:
        """Returns the numbers by name, and has process 0 write a PNG of the images.

        All processes must call it, and get the same numbers.

        Args:
          picture: the PNG's path; there may be none afterwards, if sampling fails.
        """
        numbers = {}
        if self._loss is not None:
            numbers = self._loss.measure(state.ema or state.params, constants)
        return numbers | self._images.save(picture, step, state, constants.frozen)
