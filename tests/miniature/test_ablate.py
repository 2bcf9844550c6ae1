"""The ablation's output, with a fake model and fake scores."""

import json

import pytest
from PIL import Image

from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from miniature import ablate
from miniature.evaluation.generation import Model


@pytest.fixture
def calls(monkeypatch):
    """Strengths and numbers of photos of the pictures made; their sum is the score."""
    made = []

    class HeldOut:
        def __init__(self, people, seed, pack, photos):
            assert (people, seed, photos) == (3, 5, 2)

        def score(self, pictures):
            return dict.fromkeys(ablate.SHOWN, pictures)

    def make_pictures(pipe, held_out, sampling, seed, *, batch, photos):
        assert batch == 20
        made.append((sampling.ip_adapter_scale, sampling.controlnet_conditioning_scale, photos))
        return sum(made[-1])

    monkeypatch.setattr(Model, "load", lambda self: None)
    monkeypatch.setattr(ablate, "HeldOut", HeldOut)
    monkeypatch.setattr(ablate, "make_pictures", make_pictures)
    return made


def test_scores_each_pair_of_strengths_and_each_number_of_photos_once(calls, tmp_path):
    options = ablate.Options(
        output=tmp_path / "out",
        identities=3,
        seed=5,
        adapter=(0.0, 0.8),
        identitynet=(0.0, 0.4, 0.8),
        photos=2,
        sampling=Settings(ip_adapter_scale=0.8, controlnet_conditioning_scale=0.8),
    )
    ablate.ablate(options)
    report = json.loads((tmp_path / "out" / "ablation.json").read_text())
    scales = [(0.0, 0.0), (0.0, 0.4), (0.0, 0.8), (0.8, 0.0), (0.8, 0.4), (0.8, 0.8)]
    assert calls == [*((*pair, 1) for pair in scales), (0.8, 0.8, 0), (0.8, 0.8, 2)]
    pairs = [(r["ip_adapter_scale"], r["controlnet_conditioning_scale"]) for r in report["scales"]]
    assert pairs == scales
    assert [row["rank1"] for row in report["scales"]] == pytest.approx([1, 1.4, 1.8, 1.8, 2.2, 2.6])
    assert [row["photos"] for row in report["photos"]] == [0, 1, 2]
    assert [row["rank1"] for row in report["photos"]] == pytest.approx([1.6, 2.6, 3.6])
    for name in ("scales.png", "photos.png"):
        with Image.open(tmp_path / "out" / name) as plot:
            assert plot.width > 100


@pytest.mark.parametrize("wrong", [{"identities": 1}, {"photos": 0}, {"adapter": ()}])
def test_rejects_too_few_people_photos_or_strengths(tmp_path, wrong):
    with pytest.raises(InputError, match=r"expected (at least 2 and 1|one or more strengths)"):
        ablate.ablate(ablate.Options(output=tmp_path / "out", **wrong))
    assert not (tmp_path / "out").exists()


def test_rejects_bad_strengths_before_generating(tmp_path, calls):
    with pytest.raises(InputError, match="ip_adapter_scale=-1"):
        ablate.ablate(ablate.Options(output=tmp_path / "out", adapter=(0.5, -1.0)))
    assert not calls and not (tmp_path / "out").exists()
