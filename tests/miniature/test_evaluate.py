"""The evaluation's output, with a fake model and fake scores."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from instantid_jax.errors import InputError
from miniature import evaluate
from miniature.evaluation.generation import Model
from miniature.portraits import SIDE


@pytest.fixture
def fake_model(monkeypatch):
    """Pictures of a single gray level, which is their score: target 100, 3, or 2 without ID."""

    def portrait(gray):
        return SimpleNamespace(image=Image.new("RGB", (SIDE, SIDE), (gray, gray, gray)))

    class HeldOut:
        def __init__(self, people, seed, pack, judge):
            assert judge == Path("judge")
            case = SimpleNamespace(photos=[portrait(1)], target=portrait(100))
            self.cases = [case] * people
            self.targets = np.full((people, SIDE, SIDE, 3), 100, np.uint8)

        def score(self, pictures):
            return {"rank1": pictures[0].getpixel((0, 0))[0], "caption_accuracy": len(pictures)}

        def relative_sharpness(self, pixels):
            return float(pixels[0, 0, 0, 0]) / 100

    def restore(vae, pictures):
        assert vae == Path("sdxl/vae")
        return pictures - 10  # an error of 10 of 255 levels

    def make_pictures(pipe, held_out, sampling, seed, *, batch):
        assert batch == 20
        scales = sampling.ip_adapter_scale, sampling.controlnet_conditioning_scale
        return [portrait(3 if any(scales) else 2).image] * len(held_out.cases)

    monkeypatch.setattr(Model, "load", lambda self: None)
    monkeypatch.setattr(evaluate, "HeldOut", HeldOut)
    monkeypatch.setattr(evaluate, "make_pictures", make_pictures)
    monkeypatch.setattr(evaluate, "restore", restore)


def test_reports_ceiling_and_floor_of_each_figure(fake_model, tmp_path):
    report = evaluate.evaluate(
        evaluate.Options(
            identities=4,
            seed=9,
            save=tmp_path / "made",
            judge=Path("judge"),
            model=Model(sdxl=Path("sdxl")),
        )
    )
    assert report == {
        "identities": 4,
        "seed": 9,
        "rank1": 3,
        "rank1_ceiling": 100,
        "rank1_floor": 2,
        "caption_accuracy_id_on": 4,
        "caption_accuracy_id_off": 4,
        "caption_accuracy_ceiling": 4,
        "face_sharpness_restored": 0.9,
        "psnr_restored": pytest.approx(20 * np.log10(25.5)),
    }
    saved = sorted((tmp_path / "made").iterdir())
    assert [path.name for path in saved] == [f"{i:05}.png" for i in range(4)]
    with Image.open(saved[0]) as sheet:
        grays = [sheet.getpixel((i * SIDE, 0))[0] for i in range(sheet.width // SIDE)]
    assert grays == [1, 3, 100, 2]


def test_rejects_invalid_options(fake_model, tmp_path):
    with pytest.raises(InputError, match="--identities is 1: expected 2 or more"):
        evaluate.evaluate(evaluate.Options(identities=1))
    with pytest.raises(InputError, match="already exists"):
        evaluate.evaluate(evaluate.Options(identities=2, save=tmp_path))
    with pytest.raises(InputError, match="seed=-1"):
        evaluate.evaluate(evaluate.Options(identities=2, seed=-1))
    with pytest.raises(InputError, match="batch=0"):
        evaluate.evaluate(evaluate.Options(identities=2, batch=0))
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file"):
        evaluate.evaluate(evaluate.Options(identities=2, save=tmp_path / "file" / "made"))
