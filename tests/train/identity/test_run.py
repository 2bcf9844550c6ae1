"""A whole training run with the identity loss: alone, on a two-process mesh, and resumed."""

import numpy as np
import pytest

from instantid_jax.embedded import FACE_PACK
from tests.train import training_process

OPTIONS = (
    *("--model.recognizer", FACE_PACK / "recogniser.onnx"),
    *("--objective.identity-weight", 0.5),
)
SPLIT = ("--mesh.fsdp", 2, "--mesh.frozen", "sharded", "--step.micro-batches", 2)


@pytest.mark.slow
def test_identity_loss_is_the_same_on_a_mesh_and_after_resuming(tmp_path):
    alone, split = tmp_path / "alone", tmp_path / "split"
    assert training_process.end(training_process.start(alone, *OPTIONS, "--steps", 3)) == 0
    processes = training_process.start_two(split, *OPTIONS, *SPLIT, "--steps", 3)
    assert [training_process.end(process) for process in processes] == [0, 0]
    for name in ("loss", "identity_loss", "grad_norm"):
        values = [[line[name] for line in training_process.metrics(run)] for run in (alone, split)]
        assert min(values[0]) > 0
        np.testing.assert_allclose(*values, rtol=1e-4, err_msg=name)
    assert training_process.end(training_process.start(alone, *OPTIONS, "--steps", 4)) == 0
    assert [line["step"] for line in training_process.metrics(alone)] == [1, 2, 3, 4]
