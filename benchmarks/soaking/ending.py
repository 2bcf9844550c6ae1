"""The end of a soak: the service is at rest, and SIGTERM loses none of ten requests in flight."""

import concurrent.futures
import contextlib
import random
import signal
import time

from benchmarks.soaking import photos
from benchmarks.soaking.good import PORTRAIT, stream
from benchmarks.soaking.rules import Violation, judge, read_images
from benchmarks.soaking.server import LIMITS, SIDE, Server, stop
from benchmarks.soaking.site import EDITS, Site, fields

IN_FLIGHT = 10
# Steps of each request, so that none is finished when the signal comes.
STEPS = 30
IDLE = ("requests_in_progress", "memory_bytes", "engine_waiting", "engine_running", "engine_rows")
QUIET = LIMITS.seconds + 60
DRAINED = 180


def rest(server: Server) -> None:
    """Waits until nothing is in progress.

    Raises:
      Violation: if something stays.
    """
    end = time.monotonic() + QUIET
    while any(values := {name: server.metrics()[name] for name in IDLE}.values()):
        if time.monotonic() > end:
            raise Violation(f"the service is not at rest: {values}")
        time.sleep(0.2)


def drain(site: Site) -> list[str]:
    """Sends SIGTERM with ten requests in flight, half of them streams; says how each ended.

    A connection that says nothing and one with half a request must not keep the process.

    Raises:
      Violation: if one is not answered in full, or the exit status is not 0.
    """

    def plain(i: int) -> str:
        data = fields(random.Random(i), num_inference_steps=STEPS)
        answer = site.post(EDITS, 1 + i % 4, data=data, files={"image": PORTRAIT})
        if answer.status_code == 200:
            read_images(answer, 1, SIDE)
        return judge(answer, {200})

    def streamed(i: int) -> str:
        return stream(site, random.Random(i), 1 + i % 4, num_inference_steps=STEPS)

    with contextlib.ExitStack() as stack:
        clients = stack.enter_context(concurrent.futures.ThreadPoolExecutor(IN_FLIGHT))
        stack.enter_context(site.connect())
        asked = [clients.submit((plain, streamed)[i % 2], i) for i in range(IN_FLIGHT)]
        end = time.monotonic() + QUIET
        while site.server.metrics()["requests_in_progress"] < IN_FLIGHT:
            if time.monotonic() > end or any(each.done() for each in asked):
                raise Violation("ten requests are not in flight at a time")
        half = stack.enter_context(site.connect())
        head, body = site.raw(
            EDITS, 1, data={"prompt": "a"}, files={"image": photos.save(photos.PORTRAITS[1])}
        )
        half.sendall(head + body[:100])
        site.server.process.send_signal(signal.SIGTERM)
        ended = [each.result() for each in asked]
        status = stop(site.server, DRAINED)
    if ended != ["200"] * IN_FLIGHT or status != 0:
        raise Violation(f"after SIGTERM: {ended}, exit status {status}")
    return ended
