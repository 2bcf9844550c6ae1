"""`python -m tests.serving.http.fake_server OPTIONS`: a service on an engine that draws.

OPTIONS is JSON: `seconds` of a step, `tokens`, `limits`, and arguments of `run.serve`. Prints the
port it listens on.
"""

import json
import sys

from instantid_jax.cli.entry import entry
from instantid_jax.serving import access
from instantid_jax.serving.http import run
from instantid_jax.serving.http.limits import Limits
from tests.serving.http.conftest import make_service
from tests.serving.http.fake_engine import FakeEngine


def main(seconds: float = 0.0, limits: dict | None = None, **options) -> None:
    engine = FakeEngine(seconds=seconds)
    service = make_service(engine, limits=Limits(**(limits or {})), ready=False)
    listening = access.listen("127.0.0.1", 0)
    print(listening.getsockname()[1], flush=True)
    run.serve(service, listening, **options)


if __name__ == "__main__":
    with entry("fake"):
        main(**json.loads(sys.argv[1]))
