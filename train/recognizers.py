"""Checks that data, initial weights and identity loss agree on the recognizer of the faces."""

import logging

from instantid_jax.errors import InputError
from instantid_jax.face.packs import recognizer_hash
from instantid_jax.runs.folder import RunFolder
from instantid_jax.runs.recognizers import recognizer_of
from train.config import ModelConfig

logger = logging.getLogger(__name__)


def check_recognizers(config: ModelConfig, run: RunFolder, measured: str | None) -> str | None:
    """The SHA-256 of the recognizer whose embeddings a run learns; None if it is not known.

    Warns if the weights that it starts from were trained with another one.

    Args:
      measured: SHA-256 of the recognizer that measured the data; None if the data do not say it.
    Raises:
      InputError: if the identity loss would compare embeddings of two recognizers.
    """
    if config.recognizer is not None and measured is not None:
        own = recognizer_hash(config.recognizer)
        if own != measured:
            raise InputError(
                f"model.recognizer={config.recognizer} has the SHA-256 {own[:8]}..., but the data "
                f"were measured by {measured[:8]}...: give the recognizer of the data's face pack"
            )
    source = str(run.path) if run.steps() else config.instantid
    learned = None if source is None else recognizer_of(source)
    if learned is None or measured is None:
        return measured or (learned if run.steps() else None)
    if not measured.startswith(learned):
        logger.warning(
            "the data were measured by another recognizer (SHA-256 %s...) than that of %s (%s...): "
            "the adapter has to learn people anew; prepare the data with the same face pack to "
            "keep what it knows",
            measured[:8],
            source,
            learned[:8],
        )
    return measured
