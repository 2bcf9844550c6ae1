"""Reads a scene's style and background from a caption, as labels for a classifier."""

from typing import get_args

from miniature.drawing.scene import BACKGROUND_WORDS, STYLE_WORDS, Background, Style

STYLES: tuple[str, ...] = get_args(Style)
BACKGROUNDS: tuple[str, ...] = get_args(Background)


def named(caption: str) -> tuple[int, int]:
    """Indices of the caption's style and background in `STYLES` and `BACKGROUNDS`.

    Raises:
      ValueError: if the caption does not name exactly one of each.
    """
    (style,) = [i for i, s in enumerate(STYLES) if caption.startswith(f"{STYLE_WORDS[s]} of ")]
    (background,) = [
        i
        for i, b in enumerate(BACKGROUNDS)
        # A wall has a color: "in front of a green wall".
        if all(f" {words}" in caption for words in BACKGROUND_WORDS[b].split(" {color} "))
    ]
    return style, background
