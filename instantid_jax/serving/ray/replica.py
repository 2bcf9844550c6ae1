"""Replica: the HTTP service and its engine on one device, in a process of Ray Serve."""

import logging
from collections.abc import Callable
from pathlib import Path

from starlette.types import ASGIApp

from instantid_jax.serving import access
from instantid_jax.serving.http import app
from instantid_jax.serving.http.kept import Faces
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.ray.faces import SharedFaces
from instantid_jax.serving.ray.metrics import Exported


class Replica:
    """Answers HTTP itself: requests pass Ray's proxy, and no deployment in between.

    An ingress of its own would need a place on some node, too, and without one there would be no
    service; and uploads would be copied once more.
    """

    def __init__(self, make: Callable[[Faces], Service], token_file: Path):
        """Loads, and compiles the sizes; Serve sends requests afterwards.

        Args:
          make: the service, whose sizes are not compiled yet, with the faces that it uses.
          token_file: as `read_tokens` takes it, on this node.
        Raises:
          InputError: for files that this node does not have, and values that cannot be used.
        """
        # Ray's file of this process gets the lines; it shows warnings alone by itself.
        logging.basicConfig(format="%(message)s")
        logging.getLogger("instantid_jax").setLevel(logging.INFO)
        self._tokens = access.read_tokens(token_file)
        self._service = make(SharedFaces())
        self._exported = Exported(self._service.metrics.registry)
        self._service.engine.warm_up(self._service.sizes.compiled)
        self._service.engine.__enter__()
        self._service.ready = True

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application; the name is Serve's."""
        return app.build(self._service, self._tokens)

    def check_health(self) -> None:
        """Raises a RuntimeError if the engine has died; Serve asks regularly, and replaces it."""
        self._service.engine.check()
        self._exported.update()

    def __del__(self):
        # Serve has waited for the requests in progress.
        if hasattr(self, "_service"):
            self._service.engine.close()
            self._service.close()
