"""A service on an engine that draws, and clients of it."""

import base64
import io
from collections.abc import Callable, Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from instantid_jax import Face
from instantid_jax.face.analysis import NoFaceError
from instantid_jax.serving.http import app
from instantid_jax.serving.http.kept import FaceStore
from instantid_jax.serving.http.limits import Limits
from instantid_jax.serving.http.people import Analyst
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.http.sizes import Sizes
from tests.serving.http.fake_engine import FakeEngine

SIZES = Sizes(((64, 64), (64, 128), (128, 64)))


def analyze(pixels: np.ndarray) -> Face:
    """The mean color is who it is; black images have no face."""
    if not pixels.any():
        raise NoFaceError("no face found in the image (detection sizes 640): use a photo")
    embedding = np.resize(pixels.mean((0, 1)), 8)
    kps = np.array([[10, 10], [20, 10], [15, 15], [10, 20], [20, 20]], np.float32)
    box = np.array([5.0, 5, 25, 25])
    return Face(embedding, kps, pixels.shape[:2], bbox=box, det_score=0.9)


def png(color="red", size=(64, 64), mode="RGB", kind="PNG", **options) -> bytes:
    """The bytes of an image of one color, (width, height) pixels large."""
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind, **options)
    return buffer.getvalue()


def text64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def decoded(text: str) -> Image.Image:
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    image.load()
    return image


def make_service(engine: FakeEngine, **options) -> Service:
    """A service that is ready."""
    limits = options.pop("limits", Limits())
    drawn_only = options.pop("drawn_only", False)
    analyst = Analyst(analyze, limits.pixels, drawn_only=drawn_only)
    options = {"sizes": SIZES, "ready": True, **options}
    faces = options.pop("faces", FaceStore(limits.faces, limits.face_seconds))
    return Service(engine=engine, analyst=analyst, faces=faces, limits=limits, **options)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def make(engine) -> Iterator[Callable[..., httpx.AsyncClient]]:
    """Makes a service, and a client of its application in this process."""
    services = []

    def client(*, tokens=(), headers=None, **options) -> httpx.AsyncClient:
        service = make_service(engine, **options)
        services.append(service)
        transport = httpx.ASGITransport(app.build(service, tokens), raise_app_exceptions=False)
        made = httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=30
        )
        made.service = service
        return made

    yield client
    for service in services:
        service.close()
