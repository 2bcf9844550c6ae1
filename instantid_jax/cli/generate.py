"""`instantid generate`: a face and a prompt in, an image out."""

import logging
import sys
from pathlib import Path
from typing import Any

from instantid_jax.cli.faces import FacePack, read_faces
from instantid_jax.cli.images import Images, check_controlnets
from instantid_jax.cli.outputs import check_png
from instantid_jax.cli.weights import Weights
from instantid_jax.errors import InputError
from instantid_jax.pipeline.observer import Bar
from instantid_jax.request import Request, Settings
from instantid_jax.request.fast import Fast
from instantid_jax.request.prompt_weights import check_grammar
from instantid_jax.request.provenance import Provenance

logger = logging.getLogger(__name__)


def generate(
    output: Path,
    face: tuple[str, ...] = (),
    prompt: str | None = None,
    like: Path | None = None,
    pose: str | None = None,
    images: Images = Images(),
    fast: Fast | None = None,
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    face_pack: FacePack = FacePack(),
) -> None:
    """Makes an image of a person.

    Args:
      output: a .png file; several images are numbered, out-1.png, out-2.png.
      face: photos of one person, or .npz files of `instantid embed`; several are averaged.
      prompt: what to show.
      like: a PNG that this command, `Result.save` or AUTOMATIC1111's web UI wrote. Its weights,
        prompt, settings and person take the place of the defaults.
      pose: a photo or .npz whose keypoints are used instead of the face's.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
        Without a value, of the embedded model.
    """
    check_png(output, settings.num_images_per_prompt)
    weights = weights.for_preset(fast, settings)
    recorded = None if like is None else Provenance.read(like)
    if prompt is None:
        raise InputError("no prompt: give --prompt, or --like with a PNG that records one")
    if not face and (recorded is None or not recorded.has_person):
        raise InputError("no face: give --face with photos or .npz files of one person")
    given = images.given()
    check_controlnets(weights, settings, given, recorded)
    weights.check_names()
    pack = weights.pack(face_pack)
    if face:
        given["face"] = weights.person(face, pack)
    if pose is not None:
        given["pose"] = read_faces([pose], pack)[0]
    values: dict[str, Any] = {**settings.values(), "prompt": prompt, **given}
    again = None
    if recorded is None:
        requests = [Request(**values)]
    elif not given and recorded.made_by(prompt, settings):
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
    facts = {"face_files": list(face), "face_pack": pack.name}
    if recorded is not None and not face:
        facts = {name: recorded.facts.get(name) for name in facts}
    for path in result.save(output, facts):
        print(path, file=sys.stdout)
