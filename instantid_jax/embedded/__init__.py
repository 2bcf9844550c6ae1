"""The embedded miniature model and an example portrait.

It is used when no weights are given. `miniature/` draws the portraits and trains the networks.
"""

from pathlib import Path

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face

_FOLDER = Path(__file__).parent
SDXL = _FOLDER / "sdxl"
INSTANTID = _FOLDER / "instantid"
FACE_PACK = _FOLDER / "faces"
# LoRAs of the embedded model, by the names that stand for them.
LORAS = {"miniature-4": _FOLDER / "miniature-4.safetensors"}
# A person not in the training data: miniature.portraits.draw_random(900006).
PORTRAIT = _FOLDER / "portrait.png"
# The same person in another scene, and two others: the scene of seed 900101, then draw_random of
# 900007 and 900012.
PORTRAITS = (PORTRAIT, *(_FOLDER / f"portrait-{i}.png" for i in (2, 3, 4)))

NOTICE = (
    "no weights given: using the embedded miniature model, which handles drawn portraits only; "
    "give sdxl and instantid (--sdxl and --instantid) to use real weights"
)
# Its detector scored 400 drawn portraits 0.983 or more, scikit-image's astronaut 0.91, and
# insightface's t1.jpg 0.85 at most. A close crop of a photographed face can pass.
DRAWN_SCORE = 0.975
ADVICE = (
    "the embedded miniature model handles drawn portraits only; pass --sdxl and --instantid for "
    f"photographs, or try {PORTRAIT}"
)


def check_drawn(face: Face, source: str) -> None:
    """Rejects a face that the detector does not recognize as a drawn one.

    Raises:
      InputError: if the face's score is below `DRAWN_SCORE`.
    """
    if face.det_score is not None and face.det_score < DRAWN_SCORE:
        raise InputError(
            f"{source} does not look like a drawn portrait (detector score {face.det_score:.2f}, "
            f"at least {DRAWN_SCORE} required): {ADVICE}"
        )
