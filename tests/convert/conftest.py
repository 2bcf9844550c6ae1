"""The conversion program in this process, on a small model that torch saved."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from convert.__main__ import main
from tests.convert.published import UNET, write_published
from tests.parity.reference import InstantIDReference
from tests.runs.trained_run import write_run


@dataclasses.dataclass
class Ran:
    """How a run ended: its status, and the lines of both outputs."""

    status: int
    out: list[str]
    err: list[str]

    @property
    def error(self) -> str:
        """The one line of a run that was refused."""
        assert self.status == 2, self
        line = self.err[-1]
        assert line.startswith("convert: error: ") and self.out == []
        assert not any(line.startswith("Traceback") for line in self.err)
        return line.removeprefix("convert: error: ")


@pytest.fixture
def convert(capfd, caplog) -> Callable[..., Ran]:
    """Runs `python -m convert`; the arguments may be paths and numbers."""
    caplog.set_level(logging.INFO, "instantid_jax")

    def call(*arguments) -> Ran:
        capfd.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code or 0
        out, err = capfd.readouterr()
        return Ran(status, out.splitlines(), err.splitlines())

    return call


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> InstantIDReference:
    return InstantIDReference(tmp_path_factory.mktemp("tokenizers"), seed=3, further_controlnets=1)


@pytest.fixture(scope="session")
def published(reference, tmp_path_factory) -> Path:
    """A folder with `sdxl/`, `instantid/` and `controlnet_1/` in float32."""
    folder = tmp_path_factory.mktemp("published")
    reference.save(folder)
    return folder


@pytest.fixture(scope="session")
def weights(published) -> list[str]:
    """The arguments that name them."""
    return ["--sdxl", f"{published}/sdxl", "--instantid", f"{published}/instantid"]


@pytest.fixture(scope="session")
def converted(weights, tmp_path_factory) -> Path:
    """The same, converted."""
    folder = tmp_path_factory.mktemp("converted") / "model"
    main(["to-jax", *weights, "--output", str(folder)])
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A run's folder with steps 3 and 6, and what was saved."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, write_run(folder, steps=(3, 6))


@pytest.fixture(scope="session")
def sdxl(tmp_path_factory):
    """SDXL and InstantID of the same sizes, published."""
    folder = tmp_path_factory.mktemp("sdxl") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float32")
    return folder
