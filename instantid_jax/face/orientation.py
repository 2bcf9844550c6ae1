"""Photos that lie on their side, without EXIF that says so."""

import numpy as np


def is_upright(kps: np.ndarray) -> bool:
    """Whether a face's mouth is further below its eyes than to the side of them.

    Args:
      kps: [5, 2], as in `Face`.
    """
    right, down = kps[3:].mean(0) - kps[:2].mean(0)
    return bool(down > abs(right))


def quarter_turns(pixels: np.ndarray) -> dict[int, np.ndarray]:
    """An image [H, W, 3] turned clockwise, by the degrees."""
    return {90 * n: np.ascontiguousarray(np.rot90(pixels, -n)) for n in (1, 2, 3)}
