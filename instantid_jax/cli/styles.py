"""`instantid styles`: the names that --style takes, and their texts."""

import dataclasses
import sys
from pathlib import Path

from instantid_jax.cli.entry import printable
from instantid_jax.request.style_files import read_styles
from instantid_jax.request.styles import STYLES, Style, find_style


def styles(styles: Path | None = None) -> None:
    """Prints the styles of `instantid generate --style`.

    Args:
      styles: a file of styles, in addition to the eight that are always known: JSON as
        sdxl_prompt_styler reads it, or the styles.csv of AUTOMATIC1111's web UI.
    """
    for style in Styling(styles=styles).known():
        print(printable(style.name), file=sys.stdout)
        texts = {"prompt": style.prompt, "negative prompt": style.negative_prompt}
        for name, text in texts.items():
            if text:
                print(printable(f"  {name}: {text}"), file=sys.stdout)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Styling:
    """Words that are added to prompts.

    Attributes:
      style: adds words to the prompts; `instantid styles` lists the names.
      styles: a file of further styles: JSON as sdxl_prompt_styler reads it, or the styles.csv of
        AUTOMATIC1111's web UI.
    """

    style: str | None = None
    styles: Path | None = None

    def known(self) -> tuple[Style, ...]:
        """The styles of the file and the official names."""
        return STYLES if self.styles is None else read_styles(self.styles)

    def chosen(self) -> Style | None:
        known = self.known()
        return None if self.style is None else find_style(self.style, known)
