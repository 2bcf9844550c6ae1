"""`instantid ui`: the web page."""

import dataclasses
from pathlib import Path
from typing import Any

from instantid_jax import embedded
from instantid_jax.cli import demo
from instantid_jax.cli.extras import check_extra
from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.outputs import check_folder
from instantid_jax.cli.styles import Styling
from instantid_jax.cli.weights import Weights
from instantid_jax.request import Settings
from instantid_jax.request.checks import check_side
from instantid_jax.request.fast import Fast

# Packages of the extra `ui`, by the names that are imported.
PACKAGES = ("gradio",)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listening:
    """The address of the page, and who may use it.

    Attributes:
      host: address to listen on; other machines need --token-file.
      port: to listen on; 0 takes a free one.
      token_file: a file with a token in each line, one of which is the password of every user.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    token_file: Path | None = None


def ui(
    listening: Listening = Listening(),
    output: Path | None = None,
    sizes: tuple[tuple[int, int], ...] = (),
    fast: Fast | None = None,
    styling: Styling = Styling(),
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    face_pack: FacePack = FacePack(),
) -> None:
    """Serves a web page on this machine; docs/ui.md describes it.

    Settings are what a new page shows. Uploads and images are deleted when the command ends.

    Args:
      output: a folder that keeps the images.
      sizes: heights and widths, in pixels, that are compiled before the page opens; others are
        compiled for the first image of their size.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
    """
    check_extra("ui", PACKAGES)
    from instantid_jax.serving import access
    from instantid_jax.serving.page import run

    weights = weights.for_preset(fast, settings)
    token_file = listening.token_file
    tokens = () if token_file is None else access.read_tokens(token_file)
    access.check_host(listening.host, tokens)
    for height, width in sizes:
        check_side("height", height)
        check_side("width", width)
    if output is not None:
        check_folder(output)
    styles = styling.known()
    weights.check_names()
    analyzer = weights.pack(face_pack).analyzer()
    # Taken before minutes of loading: the port may be in use.
    listening_on = access.listen(listening.host, listening.port)

    from instantid_jax.serving.engine import Engine
    from instantid_jax.serving.page import layout
    from instantid_jax.serving.page.form import Choices
    from instantid_jax.serving.page.loras import LoraSwitch, Shelf
    from instantid_jax.serving.page.people import Analyst
    from instantid_jax.serving.page.sizes import usual_sizes
    from instantid_jax.serving.page.studio import Studio

    pipe = weights.load()
    usual = usual_sizes(pipe.model.long_side)
    engine = Engine(pipe)
    engine.warm_up(sizes)

    def idle() -> bool:
        status = engine.status
        return not (status.waiting or status.running)

    with run.private_folder() as folder, engine:
        studio = Studio(
            engine=engine,
            analyst=Analyst(analyzer, drawn_only=weights.embedded),
            choices=Choices(
                styles,
                (*sizes, *(size for size in usual if size not in sizes)),
                pipe.model.guidance_scale,
            ),
            shelf=Shelf(weights.loras, tuple(embedded.LORAS) if weights.embedded else ()),
            switch=LoraSwitch(pipe.set_loras, idle, weights.loras),
            usual=settings,
            folder=folder,
            output=output,
            facts={"face_pack": face_pack.name},
        )
        prompts: dict[str, Any] = {"prompts": demo.PROMPTS} if weights.embedded else {}
        run.serve(layout.build(studio, **prompts), listening_on, tokens)
