"""`instantid generate`: a face and a prompt in, an image out."""

import logging
import sys
from pathlib import Path

from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.inputs import Files, Inputs
from instantid_jax.cli.outputs import check_image
from instantid_jax.cli.prompts import generate_each
from instantid_jax.cli.styles import Styling
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.images import read_image
from instantid_jax.pipeline.observer import Bar
from instantid_jax.request import Request, Settings
from instantid_jax.request.fast import Fast
from instantid_jax.request.prompt_weights import check_grammar
from instantid_jax.request.provenance import Provenance

logger = logging.getLogger(__name__)


def generate(
    output: Path,
    prompt: str | None = None,
    prompts: Path | None = None,
    like: Path | None = None,
    fast: Fast | None = None,
    files: Files = Files(),
    styling: Styling = Styling(),
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    face_pack: FacePack = FacePack(),
) -> None:
    """Makes an image of a person.

    Args:
      output: a .png, .jpg or .webp file; several images are numbered, out-1.png, out-2.png. With
        --prompts also a folder: folder/0001.png.
      prompt: what to show.
      prompts: a file with a prompt in each line, or an object in JSON with the prompt and what
        differs from the flags; images that are there already are not made again.
      like: an image that this command, `Result.save` or AUTOMATIC1111's web UI wrote. Its weights,
        prompt, settings and person take the place of the defaults.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
        Without a value, of the embedded model.
    """
    weights = weights.for_preset(fast, settings)
    if prompts is not None:
        if like is not None:
            raise InputError("--like and --prompts are both given: give one")
        common = Inputs(settings=settings, prompt=prompt, style=styling.chosen(), files=files)
        pack, known = weights.pack(face_pack), styling.known()
        generate_each(output, prompts, common, known, fast, weights, pack)
        return
    check_image(output, settings.num_images_per_prompt)
    recorded = None if like is None else Provenance.read(like)
    if prompt is None:
        raise InputError("no prompt: give --prompt, or --like with an image that records one")
    if not files.face and (recorded is None or not recorded.has_person):
        raise InputError("no face: give --face with photos or .npz files of one person")
    asked = Inputs(settings=settings, prompt=prompt, style=styling.chosen(), files=files)
    asked.check_controlnets(weights, None if recorded is None else recorded.request)
    for each in files.images:
        read_image(each)
    weights.check_names()
    pack = weights.pack(face_pack)
    styled, given = asked.in_style(), {**files.drawn, **files.people(weights, pack)}
    values = {**styled.settings.values(), "prompt": styled.prompt, **given}
    again = None
    if recorded is None:
        requests = [Request(**values)]
    elif not given and recorded.made_by(styled.prompt, styled.settings):
        again, requests = recorded, recorded.batch
    else:
        requests = [recorded.changed(values)]
    for request in requests:
        check_grammar(request)
    pipe = weights.load()
    made_with = None if recorded is None else recorded.facts.get("weights_hash")
    if made_with is not None and made_with != pipe.model.weights_hash:
        logger.warning("%s was made with other weights: this will be another image", like)
    with Bar() as bar:
        result = pipe.run(requests, observer=bar)
    if again is not None:
        result = result.only(again.row)
    for path in result.save(output, asked.facts(pack, recorded)):
        print(path, file=sys.stdout)
