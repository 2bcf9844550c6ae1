"""Prompts to token ids: the boundary to the CLIP tokenizers of transformers."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from instantid_jax.errors import InputError

logger = logging.getLogger(__name__)


class PromptTokenizer:
    """The tokenizer of one text encoder."""

    def __init__(self, folder: Path):
        """Reads `vocab.json` and `merges.txt`, or `tokenizer.json`, with their settings.

        Raises:
          InputError: if the folder holds no CLIP tokenizer.
        """
        from transformers import CLIPTokenizer  # seconds to import

        if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
            raise InputError(
                f"{folder} holds no tokenizer: expected vocab.json and merges.txt, or "
                "tokenizer.json, as in SDXL base's tokenizer folders"
            )
        try:
            self._tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (ValueError, OSError, KeyError, TypeError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{folder} holds no readable CLIP tokenizer: {reason}") from error

    @property
    def length(self) -> int:
        """Tokens of a padded prompt, start and end included."""
        return self._tokenizer.model_max_length

    def __call__(self, prompts: Sequence[str]) -> np.ndarray:
        """Returns [B, length] int32 ids, padded and cut; a warning quotes what was cut."""
        ids = self._tokenizer(
            list(prompts), padding="max_length", max_length=self.length, truncation=True
        ).input_ids
        whole = self._tokenizer(list(prompts), verbose=False).input_ids
        for prompt_ids in whole:
            if len(prompt_ids) > self.length:
                lost = self._tokenizer.decode(prompt_ids[self.length - 1 : -1]).strip()
                logger.warning(
                    "the prompt is %d tokens long and cut at %d; lost: %r",
                    len(prompt_ids),
                    self.length,
                    lost,
                )
        return np.asarray(ids, np.int32)
