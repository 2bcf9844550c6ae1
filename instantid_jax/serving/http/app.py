"""The ASGI application of a service."""

from collections.abc import Sequence

from fastapi import FastAPI
from fastapi import Request as HttpRequest
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from instantid_jax.errors import InputError
from instantid_jax.pipeline.observer import Canceled
from instantid_jax.serving.http import faces, openai, webui
from instantid_jax.serving.http.auth import Authorized
from instantid_jax.serving.http.bodies import LimitedBodies
from instantid_jax.serving.http.errors import ServiceError, service_error
from instantid_jax.serving.http.metrics import Measured
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.job import ClosedError, DeadlineError, QueueFullError

EXPECTED = (
    ServiceError,
    InputError,
    QueueFullError,
    ClosedError,
    DeadlineError,
    Canceled,
    RuntimeError,
)
# Nobody is there to read it; the number is nginx's.
LEFT = 499


def build(service: Service, tokens: Sequence[str] = ()) -> ASGIApp:
    """The application.

    Args:
      tokens: of those who may use it; without any, this machine alone may.
    """
    # The pages of documentation would load scripts from elsewhere.
    app = FastAPI(title="instantid_jax", docs_url=None, redoc_url=None)
    for each in (openai, faces, webui):
        app.include_router(each.router(service))
    _add_health(app, service)

    async def answer_error(_: HttpRequest, error: Exception) -> Response:
        failure = service_error(error)
        return JSONResponse(failure.to_json(), failure.status, failure.headers)

    async def answer_http(http: HttpRequest, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        where = f"{http.method[:10]} {http.url.path[:100]}"
        failure = ServiceError(error.status_code, f"{where}: {error.detail}", code="not_found")
        return JSONResponse(failure.to_json(), failure.status, error.headers)

    async def note_left(_: HttpRequest, __: Exception) -> Response:
        service.metrics.left.inc()
        return Response(status_code=LEFT)

    for kind in EXPECTED:
        app.add_exception_handler(kind, answer_error)
    app.add_exception_handler(Exception, answer_error)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, note_left)

    limited = LimitedBodies(app, service.limits, service.budget)
    return Measured(Authorized(limited, tokens), service.metrics, _paths(app))


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Whether the process and the engine live; if not, it must be started again."""
        service.engine.check()
        return {"status": "ok"}

    @app.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether requests are served: the sizes are compiled, and it does not shut down."""
        if service.draining:
            raise ServiceError(503, "the server is shutting down", code="draining")
        if not service.ready:
            raise ServiceError(503, "the sizes are being compiled", code="starting")
        return {"status": "ready"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _paths(app: FastAPI) -> frozenset[str]:
    """The paths that metrics name."""
    return frozenset(path for path in app.openapi()["paths"] if "{" not in path)
