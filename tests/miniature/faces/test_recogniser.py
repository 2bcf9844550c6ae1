"""Training a recognizer: from drawing to an ONNX file."""

import json

import numpy as np
import onnxruntime
import pytest

from miniature.faces import export
from miniature.faces.networks import Recognizer, RecognizerConfig
from miniature.faces.recogniser import Kind, Options, train_recognizer
from miniature.stage import Stage

SMALL = RecognizerConfig(stem=8, channels=(8, 8, 16), blocks=(0, 0, 1), last=8)


@pytest.mark.slow
def test_learns_to_identify_people_and_writes_a_file(tmp_path, capsys):
    kind = Kind(Recognizer, SMALL, export.recognizer, seed=1, held_out_seed=2)
    stage = Stage(steps=40, learning_rate=3e-3, warmup_steps=5, ema_decay=0.8)
    options = Options(workdir=tmp_path, people=100, pictures=2, batch=24, held_out=100, stage=stage)
    train_recognizer(kind, options)
    printed = json.loads(capsys.readouterr().out)
    # Chance level is 1 % and 0.
    assert printed["rank1"] > 0.1 and printed["similarity_margin"] > 0.15
    session = onnxruntime.InferenceSession(tmp_path / "recogniser.onnx")
    with np.load(tmp_path / "held-out" / "2-pictures" / "00000.npz") as stored:
        crops = stored["pixels"][:, 0].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    (embeddings,) = session.run(None, {"crop": crops})
    np.testing.assert_allclose(np.sqrt(np.square(embeddings).mean()), 1, atol=0.1)
