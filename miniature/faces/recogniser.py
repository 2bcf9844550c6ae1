"""`python -m miniature.faces.recogniser --workdir DIR`: trains the face pack's recognizer."""

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnx
import tyro
from flax import nnx

from instantid_jax.atomic import replacing_file
from instantid_jax.cli.entry import entry
from instantid_jax.params import Network, split_parts
from miniature.faces import export, recognition
from miniature.faces.crops import drawn_crops
from miniature.faces.identification import identification
from miniature.faces.networks import Recognizer, RecognizerConfig
from miniature.stage import Stage, train

STAGE = Stage(steps=2000, learning_rate=2e-3, weight_decay=0.05)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Training settings.

    Attributes:
      workdir: the run's folder, for checkpoints and `recogniser.onnx`; a second call resumes the
        run.
      people: number of people to draw, a multiple of 100.
      pictures: pictures per person.
      batch: people per batch, with two pictures each.
      held_out: number of people for evaluation, a multiple of 100.
      processes: number of drawing processes.
    """

    workdir: Path
    people: int = 8000
    pictures: int = 6
    batch: int = 72
    held_out: int = 1000
    processes: int = 2
    stage: Stage = STAGE


@dataclasses.dataclass(frozen=True)
class Kind:
    """A recognizer: its network, and the seeds of its own training and held-out people."""

    module: type[nnx.Module]
    config: Any
    export: Callable[[Any, dict[str, np.ndarray]], onnx.ModelProto]
    seed: int
    held_out_seed: int


PACK = Kind(Recognizer, RecognizerConfig(), export.recognizer, seed=101, held_out_seed=102)


def main() -> None:
    with entry("recogniser"):
        train_recognizer(PACK, tyro.cli(Options, description=__doc__))


def train_recognizer(kind: Kind, options: Options) -> None:
    """Draws, trains, writes `recogniser.onnx` and prints its scores on held-out people."""
    crops = drawn_crops(
        options.workdir / "crops", options.people, options.pictures, kind.seed, options.processes
    )
    network = Network(kind.module, kind.config)
    traits = recognition.heads(kind.config.embedding, crops)
    trained = train(
        options.stage,
        options.workdir,
        recognition.make_init(network, traits),
        recognition.make_loss(network, traits),
        recognition.make_batches(crops, options.batch, options.stage.seed),
        f"{options.people} people, {options.pictures} pictures of each, {options.batch} a batch",
    )
    params = split_parts(trained)[recognition.NETWORK]
    held_out = drawn_crops(
        options.workdir / "held-out", options.held_out, 2, kind.held_out_seed, options.processes
    )
    embeddings = [_embed(network, params, held_out.pixels[:, i]) for i in (0, 1)]
    # The initialization of the Resampler's first layer assumes values of about one.
    length = float(np.linalg.norm(embeddings[0], axis=1).mean())
    for name in ("embedding.kernel", "embedding.bias"):
        params[name] = params[name] * (math.sqrt(kind.config.embedding) / length)
    with replacing_file(options.workdir / "recogniser.onnx") as path:
        onnx.save(kind.export(kind.config, params), path)
    print(json.dumps({"people": options.held_out} | identification(*embeddings)))


def _embed(network: Network, params: dict, pixels: np.ndarray) -> np.ndarray:
    """Embeds crops uint8 [N, 112, 112, 3]."""
    embed = jax.jit(lambda params, x: network.bind(params)(x))
    batches = np.split(pixels, range(100, len(pixels), 100))
    return np.concatenate([embed(params, x.astype(np.float32) / 127.5 - 1) for x in batches])


if __name__ == "__main__":
    main()
