"""The measurement's output, with a fake model and fake scores."""

import json

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from miniature import guidance
from miniature.evaluation.generation import Model
from miniature.evaluation.held_out import draw_case


@pytest.fixture
def calls(monkeypatch):
    """Settings of the pictures made, which are red and less red."""
    made = []

    class HeldOut:
        def __init__(self, people, seed, pack):
            self.cases = [draw_case(seed, number) for number in range(people)]

        def score(self, pictures):
            return {"rank1": len(pictures) / 10}

    def make_pictures(pipe, held_out, sampling, seed, *, batch):
        made.append(sampling)
        color = np.uint8([255, 255 - 20 * len(made), 255 - 20 * len(made)])
        return [Image.fromarray(np.full((8, 8, 3), color, np.uint8)) for _ in held_out.cases]

    some = {name: guidance.FORMS[name] for name in ("usual", "strong", "PAG")}
    monkeypatch.setattr(guidance, "FORMS", some)
    monkeypatch.setattr(Model, "load", lambda self: None)
    monkeypatch.setattr(guidance, "HeldOut", HeldOut)
    monkeypatch.setattr(guidance, "make_pictures", make_pictures)
    return made


@pytest.mark.slow
def test_scores_and_shows_each_form_once(calls, tmp_path):
    guidance.measure(guidance.Options(output=tmp_path / "out", identities=5))
    assert [s.guidance_scale for s in calls[:2]] == [2.0, 5.0]
    forms = json.loads((tmp_path / "out" / "guidance.json").read_text())["forms"]
    assert set(forms) == {"drawn", *guidance.FORMS}
    assert forms["PAG"]["pag_scale"] == 3.0 and forms["PAG"]["rank1"] == 0.5
    saturations = [forms[name]["saturation"] for name in guidance.FORMS]
    expected = [20 * (i + 1) / 255 for i in range(len(guidance.FORMS))]
    np.testing.assert_allclose(saturations, expected, atol=0.01)
    with Image.open(tmp_path / "out" / "guidance.jpg") as grid:
        assert min(grid.size) > 100


def test_rejects_fewer_people_than_it_shows(tmp_path, calls):
    with pytest.raises(InputError, match="identities=3: expected 4"):
        guidance.measure(guidance.Options(output=tmp_path / "out", identities=3))
    assert not calls and not (tmp_path / "out").exists()
