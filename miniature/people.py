"""`python -m miniature.people DIR`: draws people as a folder of photos, one sub-folder per person.

Writes a caption next to each picture, the layout that `instantid embed` and
`python -m train.data.build` expect.
"""

import dataclasses
import functools
import multiprocessing
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from instantid_jax.atomic import new_folder
from instantid_jax.cli.entry import entry
from instantid_jax.errors import InputError
from miniature.drawing.scene import ANYWHERE, CLOSE, random_scene, scene_generator
from miniature.drawing.traits import random_traits
from miniature.portraits import SIDE, draw

# Seed of InstantID's training set; not used elsewhere.
SEED = 501
# Width, height and framing of a person's pictures, in turn; the last is wide and tall in turn.
SQUARE, WIDE, TALL = ((SIDE, SIDE), CLOSE), ((192, 128), ANYWHERE), ((128, 192), CLOSE)
VIEWS = ((SQUARE, SQUARE, WIDE), (SQUARE, SQUARE, TALL))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Drawing settings.

    Attributes:
      output: the folder; people who are already in it are not drawn again.
      people: number of people; person i does not depend on it.
      first: number of the first person. Numbers that no training set contains are held-out people.
      pictures: pictures per person, each in its own scene.
      processes: number of drawing processes.
    """

    output: tyro.conf.Positional[Path]
    people: int = 5_000
    first: int = 0
    pictures: int = 3
    processes: int = 2


def main() -> None:
    with entry("people"):
        draw_people(tyro.cli(Options, prog="python -m miniature.people", description=__doc__))


def draw_people(options: Options) -> None:
    """Draws the missing people.

    Raises:
      InputError: if the number of people, pictures or processes is less than 1, or `first` less
        than 0.
    """
    for name in ("people", "pictures", "processes"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} is {getattr(options, name)}: expected 1 or more")
    if options.first < 0:
        raise InputError(f"--first is {options.first}: expected 0 or more")
    numbers = range(options.first, options.first + options.people)
    missing = [i for i in numbers if not _folder(options, i).exists()]
    # Forked processes would inherit the caller's threads.
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        drawn = pool.imap_unordered(functools.partial(_draw_person, options), missing)
        for _ in tqdm(drawn, total=len(missing), unit=" people"):
            pass


def _folder(options: Options, person: int) -> Path:
    return options.output / f"{person:06}"


def _draw_person(options: Options, person: int) -> None:
    key = [SEED, person]
    traits = random_traits(np.random.default_rng(key))
    with new_folder(_folder(options, person)) as folder:
        for i in range(options.pictures):
            views = VIEWS[person % len(VIEWS)]
            size, framing = views[i % len(views)]
            portrait = draw(traits, random_scene(scene_generator(key, i), framing), size)
            portrait.image.save(folder / f"{i}.jpg", quality=95, subsampling=0)
            (folder / f"{i}.txt").write_text(portrait.caption + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
