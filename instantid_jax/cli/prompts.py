"""`instantid generate --prompts`: the images of a file of prompts, one prompt after another."""

import contextlib
import dataclasses
import functools
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.inputs import Files, Inputs
from instantid_jax.cli.outputs import check_image
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.images import read_image
from instantid_jax.pipeline.observer import Bar
from instantid_jax.pipeline.result import numbered
from instantid_jax.request import Request
from instantid_jax.request.fast import Fast, check_steps
from instantid_jax.request.prompt_files import FILE, FILES, Line, read_prompts
from instantid_jax.request.prompt_weights import check_grammar
from instantid_jax.request.provenance import Provenance
from instantid_jax.request.settings import CHECKS
from instantid_jax.request.styles import Style, find_style

logger = logging.getLogger(__name__)

# Exit status if some prompts gave no images; those of the others are written.
PARTLY_FAILED = 1
STEPS = ("num_inference_steps", "timesteps", "sigmas")


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """The images of a line.

    Attributes:
      place: the line, for messages.
      output: the file, which is numbered for several images.
      facts: what the images record in addition to their request.
    """

    place: str
    output: Path
    request: Request
    facts: dict[str, Any]

    @property
    def targets(self) -> list[Path]:
        """The file of each image."""
        return numbered(self.output, self.request.num_images_per_prompt)

    def made(self, weights: Weights) -> list[Provenance] | None:
        """How the images that are there were made; None if some are missing or others."""
        found: list[Provenance] = []
        for i, target in enumerate(self.targets):
            if not target.exists():
                return None
            try:
                recorded = Provenance.read(target)
            except InputError as error:
                logger.info("%s: this file is replaced", error)
                return None
            same = recorded.image == i and recorded.is_of(self.request)
            if not same or not weights.made(recorded.facts):
                logger.info("%s was made otherwise than %s says: replacing it", target, self.place)
                return None
            found.append(recorded)
        return found


def generate_each(
    output: Path,
    prompts: Path,
    common: Inputs,
    known: Sequence[Style],
    fast: Fast | None,
    weights: Weights,
    pack: FacePack,
) -> None:
    """Makes the images of every line that are not there yet.

    Args:
      output: a folder, or the name of a file to number.
      common: for what a line does not say.
      known: styles that a line may name.
    Raises:
      InputError: for a line that cannot be used, before weights load, and if no line gave an image.
    """
    check_image(_target(output, 1))
    jobs = _jobs(output, read_prompts(prompts), common, known, fast, weights, pack)
    made = [job.made(weights) for job in jobs]
    left = [job for job, found in zip(jobs, made, strict=True) if found is None]
    if len(left) < len(jobs):
        done = len(jobs) - len(left)
        logger.info("%d of %d prompts have their images already", done, len(jobs))
    if not left:
        return
    pipe = weights.load()
    hashes = {each.facts.get("weights_hash") for found in made for each in found or ()} - {None}
    if hashes and hashes != {pipe.model.weights_hash}:
        logger.warning("the images that are there were made with other weights of the same names")
    failed = 0
    for job in left:
        try:
            with Bar() as bar:
                result = pipe.run([job.request], observer=bar)
        except InputError as error:
            failed += 1
            logger.warning("%s: %s", job.place, error)
            continue
        for path in result.save(job.output, job.facts):
            print(path, file=sys.stdout, flush=True)
    if failed == len(left):
        raise InputError(f"no prompt of {prompts} that was left gave an image")
    if failed:
        sys.exit(PARTLY_FAILED)


def _jobs(
    output: Path,
    lines: Sequence[Line],
    common: Inputs,
    known: Sequence[Style],
    fast: Fast | None,
    weights: Weights,
    pack: FacePack,
) -> list[Job]:
    """Checks all lines; then finds and measures faces, which takes longer."""
    jobs: list[tuple[Job, Files]] = []
    readable: set[str] = set()
    for i, line in enumerate(lines):
        with _placed(line.place):
            asked = _inputs(line, common, known, fast)
            styled, files = asked.in_style(), asked.files
            if fast is not None:
                check_steps(fast, asked.settings.num_inference_steps)
            if asked.prompt is None:
                raise InputError("no prompt: give one here, or --prompt for all")
            if not files.face:
                raise InputError("no face: give one here, or --face for all")
            asked.check_controlnets(weights)
            for image in files.images:
                if image not in readable:
                    read_image(image)
                    readable.add(image)
            request = Request(styled.prompt, **files.drawn, **styled.settings.values())
            check_grammar(request)
            target = _target(output, i + 1)
            check_image(target, request.num_images_per_prompt)
            jobs.append((Job(line.place, target, request, asked.facts(pack)), files))
    weights.check_names()
    people = functools.cache(lambda files: files.people(weights, pack))
    complete: list[Job] = []
    for job, files in jobs:
        with _placed(job.place):
            person = people(Files(face=files.face, pose=files.pose))
            request = dataclasses.replace(job.request, **person)
            complete.append(dataclasses.replace(job, request=request))
    return complete


def _inputs(line: Line, common: Inputs, known: Sequence[Style], fast: Fast | None) -> Inputs:
    """The inputs of a line; those that it does not have are common to all lines."""
    values = line.values
    settings = {name: value for name, value in values.items() if name in CHECKS}
    if fast is not None and "num_inference_steps" in settings:
        check_steps(fast, settings["num_inference_steps"])
    elif any(name in settings for name in STEPS):
        # They say the same; the line's counts.
        settings = {"timesteps": None, "sigmas": None, **settings}
    files = {name: value for name, value in values.items() if name in (*FILE, *FILES)}
    style = common.style
    if "style" in values:
        style = None if values["style"] is None else find_style(values["style"], known)
    return Inputs(
        settings=dataclasses.replace(common.settings, **settings),
        prompt=values.get("prompt", common.prompt),
        style=style,
        files=dataclasses.replace(common.files, **files),
    )


def _target(output: Path, number: int) -> Path:
    """The file of a line's image: folder/0001.png, or of a name out-0001.png."""
    if output.is_dir() or not output.suffix:
        return output / f"{number:04}.png"
    return output.with_stem(f"{output.stem}-{number:04}")


@contextlib.contextmanager
def _placed(place: str) -> Iterator[None]:
    """Names the line in the errors of the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
