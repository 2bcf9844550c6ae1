"""`instantid styles`: the names that --style takes, and their texts."""

import sys
from pathlib import Path

from instantid_jax.cli.entry import printable
from instantid_jax.request.style_files import read_styles
from instantid_jax.request.styles import STYLES, Style


def styles(styles: Path | None = None) -> None:
    """Prints the styles of `instantid generate --style`.

    Args:
      styles: a file of styles, in addition to the eight that are always known: JSON as
        sdxl_prompt_styler reads it, or the styles.csv of AUTOMATIC1111's web UI.
    """
    for style in known_styles(styles):
        print(printable(style.name), file=sys.stdout)
        texts = {"prompt": style.prompt, "negative prompt": style.negative_prompt}
        for name, text in texts.items():
            if text:
                print(printable(f"  {name}: {text}"), file=sys.stdout)


def known_styles(file: Path | None) -> tuple[Style, ...]:
    """The styles of a file and the official names; without a file those alone."""
    return STYLES if file is None else read_styles(file)
