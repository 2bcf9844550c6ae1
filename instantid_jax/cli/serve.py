"""`instantid serve`: the HTTP service."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from instantid_jax.cli.extras import check_extra
from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.weights import Weights
from instantid_jax.request import Settings
from instantid_jax.request.checks import check_side
from instantid_jax.request.fast import Fast
from instantid_jax.serving.http.limits import Limits

if TYPE_CHECKING:
    from instantid_jax.serving.http.kept import Faces
    from instantid_jax.serving.http.service import Service

# Packages of the extra `serve`, by the names that are imported.
PACKAGES = ("fastapi", "uvicorn", "python_multipart", "sse_starlette", "prometheus_client")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listening:
    """The address of the service, who may use it, and how it ends.

    Attributes:
      host: address to listen on; other machines need --token-file.
      port: to listen on; 0 takes a free one, which is logged.
      token_file: a file with a token in each line, one of which each request must have.
      drain_seconds: how long requests may take that run when SIGTERM comes.
      drain_delay: how long to accept requests after it, while /readyz fails.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    drain_seconds: float = 120.0
    drain_delay: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batching:
    """The programs that are compiled, and how requests share them.

    Attributes:
      sizes: heights and widths of images, in pixels, that are compiled before requests are served;
        none is the size that the model was trained for.
      other_sizes: compile other sizes when they are asked for, while requests wait.
      rows: sizes of batches that are compiled; an image takes a row, and with guidance two.
      waiting: requests that wait at most; others are refused.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    other_sizes: bool = False
    rows: tuple[int, ...] = (1, 2, 4, 8, 16)
    waiting: int = 64

    def __post_init__(self):
        for height, width in self.sizes:
            check_side("height", height)
            check_side("width", width)


def serve(
    listening: Listening = Listening(),
    batching: Batching = Batching(),
    face: tuple[str, ...] = (),
    fast: Fast | None = None,
    weights: Weights = Weights(),
    settings: Settings = Settings(),
    limits: Limits = Limits(),
    face_pack: FacePack = FacePack(),
) -> None:
    """Serves images over HTTP, with OpenAI's images API; docs/serving.md describes it.

    Settings are the defaults of requests that do not give them. Nothing is written to disk.

    Args:
      face: photos or .npz files of one person, for requests that name nobody.
      fast: preset of a few-step model: scheduler, steps and guidance, where no flags set them.
    """
    check_extra("serve", PACKAGES)
    from instantid_jax.serving import access
    from instantid_jax.serving.http import run
    from instantid_jax.serving.http.kept import FaceStore

    file = listening.token_file
    tokens = () if file is None else access.read_tokens(file)
    access.check_host(listening.host, tokens)
    faces = FaceStore(limits.faces, limits.face_seconds)
    # Taken before minutes of loading: the port may be in use.
    with access.listen(listening.host, listening.port) as taken:
        service = make_service(faces, batching, face, fast, weights, settings, limits, face_pack)
        run.serve(
            service,
            taken,
            tokens=tokens,
            drain_seconds=listening.drain_seconds,
            drain_delay=listening.drain_delay,
        )


def make_service(
    faces: "Faces",
    batching: Batching,
    face: Sequence[str],
    fast: Fast | None,
    weights: Weights,
    settings: Settings,
    limits: Limits,
    face_pack: FacePack,
) -> "Service":
    """The service that the flags describe; its sizes are not compiled yet.

    Args:
      faces: keeps those that have an id.
    Raises:
      InputError: for files and values that cannot be used.
    """
    from instantid_jax.serving.engine import Engine
    from instantid_jax.serving.http.people import Analyst
    from instantid_jax.serving.http.service import Service
    from instantid_jax.serving.http.sizes import Sizes

    weights = weights.for_preset(fast, settings)
    weights.check_names()
    pack = weights.pack(face_pack)
    default = weights.person(face, pack) if face else None
    analyzer = pack.analyzer()
    pipe = weights.load()
    side = pipe.model.long_side
    return Service(
        engine=Engine(pipe, rows=batching.rows, waiting=batching.waiting),
        analyst=Analyst(analyzer.analyze, limits.pixels, drawn_only=weights.embedded),
        sizes=Sizes(batching.sizes or ((side, side),), batching.other_sizes),
        faces=faces,
        limits=limits,
        default=default,
        settings=settings,
    )
