"""The shipped recognizer, on people of a seed of their own."""

import numpy as np
import onnxruntime

import instantid_jax
from miniature.drawing.scene import scene_generator
from miniature.drawing.traits import random_traits
from miniature.faces.crops import draw_crop
from miniature.faces.identification import identification

PEOPLE, SEED = 60, 901


def test_identifies_people_across_scenes():
    folder = next(iter(instantid_jax.__path__))
    session = onnxruntime.InferenceSession(f"{folder}/embedded/faces/recogniser.onnx")
    embeddings = []
    for shot in (0, 1):
        crops = [
            draw_crop(random_traits(np.random.default_rng(key)), scene_generator(key, shot))
            for key in ([SEED, person] for person in range(PEOPLE))
        ]
        pixels = np.stack(crops).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
        embeddings.append(session.run(None, {"crop": pixels})[0])
    scores = identification(*embeddings)
    assert scores["rank1"] >= 0.95 and scores["similarity_margin"] > 0.75
