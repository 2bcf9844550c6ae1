"""Training captions: match the drawn ones and do not occur in evaluation cases."""

import pytest

from miniature import people
from miniature.base.pictures import drawn_pictures
from miniature.base.text_to_image import SEED
from miniature.evaluation.held_out import draw_case
from miniature.evaluation.learned import learned_captions
from miniature.people import draw_people


@pytest.mark.slow
def test_contains_the_captions_of_training_pictures(tmp_path):
    learned = learned_captions()
    assert set(drawn_pictures(tmp_path / "pictures", 50, SEED, 1).captions) <= learned
    draw_people(people.Options(output=tmp_path / "people", people=3, processes=1))
    written = [file.read_text().strip() for file in tmp_path.glob("people/*/*.txt")]
    assert len(written) == 9 and set(written) <= learned


def test_cases_have_other_captions():
    captions = {draw_case(0, number).target.caption for number in range(40)}
    assert len(captions) > 35 and not captions & learned_captions()
