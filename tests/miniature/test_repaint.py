"""The measurement's output, with fake pictures and fake scores."""

import json

import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face
from instantid_jax.errors import InputError
from miniature import repaint
from miniature.evaluation.generation import Model
from miniature.evaluation.held_out import draw_case


@pytest.fixture
def requests(monkeypatch):
    """Requests of the paintings, which are white inside their masks, except for the last."""
    asked = []

    def face(portrait):
        return Face(np.ones(4), portrait.kps, portrait.image.size[::-1], portrait.bbox)

    class HeldOut:
        def __init__(self, people, seed, pack):
            self.cases = [draw_case(seed, number) for number in range(people)]
            self.faces = [[face(case.photos[0])] for case in self.cases]

        def score(self, pictures):
            share = np.mean([np.asarray(p).max() == 255 for p in pictures])
            return dict.fromkeys(("rank1", "similarity_margin", "detection_rate"), float(share))

    class Analyzer:
        def __init__(self, pack):
            pass

        def analyze(self, image):
            return Face(np.ones(4), np.arange(10).reshape(5, 2), image.size[::-1], [30, 30, 60, 60])

    def make_pictures(pipe, held_out, sampling, seed, *, batch):
        return [Image.new("RGB", (128, 128)) for _ in held_out.cases]

    def run_all(pipe, given, batch):
        asked.extend(given)
        made = []
        for request in given:
            pixels = np.array(request.image)
            pixels[np.asarray(request.mask_image) > 0] = 255
            made.append(Image.fromarray(pixels))
        return [*made[:-1], Image.new("RGB", (128, 128))]

    monkeypatch.setattr(Model, "load", lambda self: None)
    monkeypatch.setattr(repaint, "HeldOut", HeldOut)
    monkeypatch.setattr(repaint, "FaceAnalyzer", Analyzer)
    monkeypatch.setattr(repaint, "make_pictures", make_pictures)
    monkeypatch.setattr(repaint, "run_all", run_all)
    return asked


def test_paints_everybody_into_the_portrait_of_another(requests, tmp_path):
    repaint.measure(repaint.Options(output=tmp_path / "out", identities=8))
    people = [draw_case(0, number) for number in range(8)]
    for i, request in enumerate(requests):
        portrait = people[(i + 1) % 8].photos[0]
        assert (request.prompt, request.seed) == (portrait.caption, i)
        assert request.image == portrait.image
    report = json.loads((tmp_path / "out" / "repaint.json").read_text())
    assert report["unchanged_outside"] == 7 / 8
    assert report["from_text"]["rank1"] == 0 and report["repainted"]["rank1"] == 7 / 8
    assert report["masked"] == pytest.approx((30 * 1.3 / 128) ** 2, rel=0.1)
    with Image.open(tmp_path / "out" / "repaint.jpg") as sheet:
        assert sheet.width > 300


def test_rejects_fewer_people_than_it_shows(requests, tmp_path):
    with pytest.raises(InputError, match="identities=5: expected 6"):
        repaint.measure(repaint.Options(output=tmp_path / "out", identities=5))
    assert not requests and not (tmp_path / "out").exists()
