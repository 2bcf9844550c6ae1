"""A CLIP tokenizer with a token for each word of the captions; it splits other words."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from instantid_jax.json_files import write_json
from miniature.drawing.group import COUNTS, group_caption
from miniature.drawing.scene import Scene, random_scene

END_OF_WORD = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP has 77. The longest caption of one person has 29 tokens, of three people 54.
POSITIONS = 64


def captions() -> list[str]:
    """Captions that together contain every word of scenes and groups."""
    scene = random_scene(np.random.default_rng(0))
    fields = [f for f in dataclasses.fields(Scene) if isinstance(getattr(scene, f.name), str)]
    return [
        dataclasses.replace(scene, **({"background": "wall"} | {field.name: choice})).caption
        for field in fields
        for choice in get_args(field.type)
    ] + [group_caption([scene] * count) for count in COUNTS]


def merges(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Byte-pair merges that turn each word of the texts into one token."""
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def vocabulary(pairs: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Token numbers: bytes inside and at the end of a word, merges, start and end of text.

    The end of text comes last, because CLIP's text encoders pool the highest token.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(letter + END_OF_WORD for letter in alphabet)]
    tokens += [first + second for first, second in pairs] + [START, END]
    return {token: number for number, token in enumerate(dict.fromkeys(tokens))}


def write_tokenizer(folder: Path) -> None:
    """Writes the tokenizer in the format of CLIP's."""
    pairs = merges(captions())
    tokens = vocabulary(pairs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(tokens), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in pairs)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            "model_max_length": POSITIONS,
            "bos_token": START,
            "eos_token": END,
            "pad_token": END,
            "unk_token": END,
        },
    )
