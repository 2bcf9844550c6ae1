"""Held-out people and their scores, with the shipped judge and classifier."""

import shutil

import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer, NoFaceError
from miniature.evaluation import held_out
from miniature.evaluation.held_out import HeldOut, draw_case


@pytest.mark.slow
def test_case_is_one_person_in_several_scenes():
    case = draw_case(5, 3, photos=2)
    assert case.target.traits == case.photos[0].traits == case.photos[1].traits
    assert len({p.scene for p in (case.target, *case.photos)}) == 3
    assert draw_case(5, 3, photos=1).target.scene == case.target.scene
    assert draw_case(6, 3).target.traits != case.target.traits


@pytest.mark.slow
def test_other_drawings_score_high_and_other_people_low():
    held_out = HeldOut(4, 3, embedded.FACE_PACK)
    pictures = [case.target.image for case in held_out.cases]
    own = held_out.score(pictures)
    assert own["rank1"] == own["detection_rate"] == own["caption_accuracy"] == 1
    assert own["similarity_margin"] > 0.6 and own["keypoint_error"] < 0.03
    assert own["face_sharpness"] == 1
    others = held_out.score(pictures[1:] + pictures[:1])
    assert others["rank1"] == 0 and others["similarity"] < 0.3
    assert others["frechet_distance"] == pytest.approx(own["frechet_distance"], rel=1e-3)
    assert others["keypoint_error"] > 0.03 and others["caption_accuracy"] == 0


def test_rejects_missing_networks(tmp_path):
    shutil.copy(embedded.FACE_PACK / "recogniser.onnx", tmp_path)
    with pytest.raises(InputError, match=r"detector\.onnx is missing"):
        HeldOut(2, 0, tmp_path)
    with pytest.raises(InputError, match=r"no\.onnx is missing: expected a recognizer"):
        HeldOut(2, 0, embedded.FACE_PACK, judge=tmp_path / "no.onnx")


@pytest.mark.slow
def test_rejects_a_pack_that_finds_no_drawn_face(monkeypatch):
    def analyze(self, picture):
        raise NoFaceError("no face found")

    monkeypatch.setattr(FaceAnalyzer, "analyze", analyze)
    monkeypatch.setattr(held_out, "MISSED", 3)
    with pytest.raises(InputError, match=r"in 0 of 5 drawn people's photos"):
        HeldOut(1, 0, embedded.FACE_PACK)
