"""Faces that all replicas share."""

from typing import Any

import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError
from ray.serve.config import DeploymentActorConfig

from instantid_jax.face.face import Face
from instantid_jax.serving.http.errors import ServiceError
from instantid_jax.serving.http.kept import FaceStore, Kept
from instantid_jax.serving.http.limits import RETRY_AFTER, Limits

NAME = "faces"
# Seconds for an answer: the actor does nothing that takes long.
PATIENCE = 10.0


def face_actor(limits: Limits) -> DeploymentActorConfig:
    """The actor of a deployment that keeps its faces.

    If its machine dies, Serve starts it on another one, without the faces.
    """
    return DeploymentActorConfig(
        name=NAME,
        actor_class=ray.remote(FaceStore),
        init_args=(limits.faces, limits.face_seconds),
        # It waits for no free processor.
        actor_options={"num_cpus": 0},
    )


class SharedFaces:
    """The faces of a replica's deployment; each method asks the actor.

    Raises:
      ServiceError: while the actor is being started again.
    """

    def add(self, face: Face, owner: str) -> tuple[str, Kept]:
        """Keeps a face; returns its id, which cannot be guessed."""
        return _ask("add", face, owner)

    def find(self, name: str, owner: str) -> Face | None:
        """The face of an id; None if it is not kept, not any more, or for somebody else."""
        return _ask("find", name, owner)

    def remove(self, name: str, owner: str) -> bool:
        """Forgets a face; returns whether `find` would have found it."""
        return _ask("remove", name, owner)


def _ask(method: str, *arguments: Any) -> Any:
    try:
        # Looked up each time: an actor that was started again is another one.
        actor = serve.get_deployment_actor(NAME)
        return ray.get(getattr(actor, method).remote(*arguments), timeout=PATIENCE)
    except (GetTimeoutError, RayActorError, ValueError) as error:
        raise ServiceError(
            503,
            "the faces that are kept cannot be reached: try again later",
            code="faces_unavailable",
            retry_after=RETRY_AFTER,
        ) from error
