"""`python -m miniature.faces.detector --workdir DIR`: trains the face pack's detector."""

import dataclasses

import onnx
import tyro

from instantid_jax.atomic import replacing_file
from instantid_jax.cli.entry import entry
from instantid_jax.params import Network
from miniature.faces import detection, export
from miniature.faces.networks import Detector, DetectorConfig
from miniature.options import PictureOptions
from miniature.stage import Stage, train

# Seed of the training pictures; not used elsewhere.
SEED = 103
STAGE = Stage(steps=4000, learning_rate=2e-3, weight_decay=0.02)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(PictureOptions):
    """Training settings of the detector."""

    pictures: int = 6000
    batch: int = 16
    stage: Stage = STAGE


def main() -> None:
    with entry("detector"):
        train_detector(tyro.cli(Options, description=__doc__))


def train_detector(options: Options) -> None:
    """Draws, trains and writes `detector.onnx`."""
    drawn = detection.drawn_examples(
        options.workdir / "drawn", options.pictures, SEED, options.processes
    )
    config = DetectorConfig()
    network = Network(Detector, config)
    params = train(
        options.stage,
        options.workdir,
        network.init,
        detection.make_loss(network),
        detection.make_batches(drawn, options.batch, options.stage.seed),
        options.data,
    )
    with replacing_file(options.workdir / "detector.onnx") as path:
        onnx.save(export.detector(config, params), path)


if __name__ == "__main__":
    main()
