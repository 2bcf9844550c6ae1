"""Jobs of the engine for HTTP requests, whose clients may leave at any time."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.types import Receive

from instantid_jax.errors import InputError
from instantid_jax.pipeline.result import Result
from instantid_jax.serving.http.errors import ServiceError
from instantid_jax.serving.http.fields import Fields, naming_fields, read_fields
from instantid_jax.serving.http.forms import Form
from instantid_jax.serving.http.requests import build_request
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.job import Job, Listener

Made = TypeVar("Made")


@dataclasses.dataclass(frozen=True, eq=False)
class Submitted:
    """A request in the engine."""

    fields: Fields
    job: Job


class Client:
    """The client of a request, who may leave at any time."""

    def __init__(self, receive: Receive):
        self._left = asyncio.ensure_future(_until_disconnect(receive))

    async def unless_left(self, work: "asyncio.Future[Made]") -> Made:
        """The result of some work.

        Raises:
          ClientDisconnect: as soon as the client leaves; the work is canceled then.
        """
        try:
            await asyncio.wait([work, self._left], return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            raise ClientDisconnect
        finally:
            work.cancel()

    async def stop(self) -> None:
        """Stops looking, so that others may."""
        self._left.cancel()
        await asyncio.wait([self._left])


@contextlib.asynccontextmanager
async def following(http: HttpRequest) -> AsyncIterator[Client]:
    """The client of a request whose body was read."""
    client = Client(http.receive)
    try:
        yield client
    finally:
        await client.stop()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def check_ready(service: Service) -> None:
    """Raises a ServiceError while the sizes are being compiled."""
    if not service.ready:
        raise ServiceError(
            503, "the server is still compiling: try again later", code="starting", retry_after=15
        )


async def submit(
    service: Service,
    http: HttpRequest,
    client: Client,
    form: Form,
    *,
    listener: Listener | None = None,
) -> Submitted:
    """Reads a form in a worker thread and submits its request.

    Raises:
      InputError, ServiceError: for what cannot be served.
      ClientDisconnect: if the client leaves; nothing is submitted then, or it is canceled.
    """
    abandoned = threading.Event()
    made: list[Job] = []
    state = http.scope["state"]

    def check() -> None:
        if abandoned.is_set():
            raise ClientDisconnect

    def work() -> Submitted:
        fields = read_fields(form, service.limits, service.settings)
        with naming_fields():
            request = build_request(service, fields, state["owner"], state["lease"], check)
            check()
            job = service.engine.submit(
                request,
                timeout=service.limits.seconds,
                previews=fields.partial_images,
                listener=listener,
            )
        made.append(job)
        return Submitted(fields, job)

    pending = service.workers.submit(work)
    try:
        return await client.unless_left(asyncio.wrap_future(pending))
    except BaseException:
        abandoned.set()
        pending.add_done_callback(lambda _: [job.cancel() for job in made])
        raise


async def finish(client: Client, job: Job) -> Result:
    """Waits for a job's images.

    Raises:
      ClientDisconnect: if the client leaves; the job is canceled then.
      ServiceError: if the model made something that is not an image.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    job.add_done_callback(lambda _: notify(loop, _resolve, done))
    try:
        await client.unless_left(done)
    finally:
        job.cancel()
    return result_of(job)


def result_of(job: Job) -> Result:
    """The images of a job that is done; raises what it failed with."""
    try:
        return job.result(0)
    except InputError as error:
        # The request was checked before: these are latents that are not finite.
        raise ServiceError(500, str(error)) from error


def notify(loop: asyncio.AbstractEventLoop, call: Callable[..., object], *values: object) -> None:
    """Calls something in an event loop, from any thread; the loop may have ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(call, *values)


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
