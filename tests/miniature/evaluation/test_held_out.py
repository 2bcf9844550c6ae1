"""Held-out people and their scores, by the judge and the classifier that are in the repository."""

import shutil

import pytest

from instantid_jax import embedded
from instantid_jax.errors import InputError
from instantid_jax.face.analysis import FaceAnalyzer, NoFaceError
from miniature.evaluation.held_out import MISSED, HeldOut, draw_case


@pytest.mark.slow
def test_a_case_is_one_person_in_several_scenes():
    case = draw_case(5, 3, photos=2)
    assert case.target.traits == case.photos[0].traits == case.photos[1].traits
    assert len({p.scene for p in (case.target, *case.photos)}) == 3
    assert draw_case(5, 3, photos=1).target.scene == case.target.scene
    assert draw_case(6, 3).target.traits != case.target.traits


def test_another_drawing_scores_high_and_other_people_do_not():
    held_out = HeldOut(4, 3, embedded.FACE_PACK)
    pictures = [case.target.image for case in held_out.cases]
    told = held_out.score(pictures)
    assert told["rank1"] == told["detection_rate"] == told["caption_accuracy"] == 1
    assert told["similarity_margin"] > 0.6 and told["keypoint_error"] < 0.03
    assert told["face_sharpness"] == 1
    others = held_out.score(pictures[1:] + pictures[:1])
    assert others["rank1"] == 0 and others["similarity"] < 0.3
    assert others["frechet_distance"] == pytest.approx(told["frechet_distance"], rel=1e-3)
    assert others["keypoint_error"] > 0.03 and others["caption_accuracy"] == 0


def test_missing_networks_are_refused(tmp_path):
    shutil.copy(embedded.FACE_PACK / "recogniser.onnx", tmp_path)
    with pytest.raises(InputError, match=r"detector\.onnx is missing"):
        HeldOut(2, 0, tmp_path)
    with pytest.raises(InputError, match=r"no\.onnx is missing: expected a recogniser"):
        HeldOut(2, 0, embedded.FACE_PACK, judge=tmp_path / "no.onnx")


def test_a_pack_that_finds_no_drawn_face_is_refused(monkeypatch):
    def analyze(self, picture):
        raise NoFaceError("no face found")

    monkeypatch.setattr(FaceAnalyzer, "analyze", analyze)
    with pytest.raises(InputError, match=f"in 0 of {MISSED + 2} drawn people's photos"):
        HeldOut(1, 0, embedded.FACE_PACK)
