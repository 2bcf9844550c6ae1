"""The model that the package ships: InstantID in miniature, and a drawn portrait to try it on.

It is used where no weights are named. `miniature/` draws the portraits and trains the networks.
"""

from pathlib import Path

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face

_FOLDER = Path(__file__).parent
SDXL = _FOLDER / "sdxl"
INSTANTID = _FOLDER / "instantid"
FACE_PACK = _FOLDER / "faces"
# Of a person whom nothing here learned from: miniature.portraits.draw_random(900006).
PORTRAIT = _FOLDER / "portrait.png"


# Of those that were tried people are most like themselves with this, where little of the caption is
# lost; the other strengths are the usual ones (miniature/README.md).
GUIDANCE_SCALE = 2.0

NOTICE = (
    "no weights are named: this is the embedded InstantID in miniature, which knows drawn "
    "portraits and no photographs; give --sdxl and --instantid for real ones"
)
# Its detector gave 400 drawn portraits 0.983 up; scikit-image's astronaut 0.91, insightface's
# t1.jpg 0.85 at most. A close crop of a photographed face can pass.
DRAWN_SCORE = 0.975
ADVICE = (
    "the embedded miniature knows drawn people alone; for photographs give --sdxl and "
    f"--instantid, to try the miniature {PORTRAIT}"
)


def check_drawn(face: Face, source: str) -> None:
    """Refuses a face that the detector does not take for a drawn one.

    Raises:
      InputError: if the face's score is below `DRAWN_SCORE`.
    """
    if face.det_score is not None and face.det_score < DRAWN_SCORE:
        raise InputError(
            f"{source}: its face is no drawn portrait's (detector's score {face.det_score:.2f}, "
            f"expected {DRAWN_SCORE} up): {ADVICE}"
        )
