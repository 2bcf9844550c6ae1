"""The application of Ray Serve."""

from collections.abc import Callable
from pathlib import Path

from ray import serve

from instantid_jax.serving.http.kept import Faces
from instantid_jax.serving.http.limits import Limits
from instantid_jax.serving.http.service import Service
from instantid_jax.serving.ray.faces import face_actor
from instantid_jax.serving.ray.replica import Replica
from instantid_jax.serving.ray.scaling import Scaling

NAME = "instantid"


def application(
    make: Callable[[Faces], Service], token_file: Path, limits: Limits, scaling: Scaling
) -> serve.Application:
    """Replicas whose number follows the requests; Serve's configuration may change each option.

    Args:
      make: the service of a replica; it runs on the replica's node.
      token_file: on the replicas' nodes.
      limits: each replica has them for itself.
    """
    gpus = scaling.gpus
    deployment = serve.deployment(
        serve.ingress()(Replica),  # pyright: ignore
        name=NAME,
        # A processor that something else holds must not keep a replica from its GPU.
        ray_actor_options={"num_cpus": 0, "num_gpus": gpus} if gpus else {"num_cpus": 1},
        autoscaling_config={
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_requests,
            # A replica that starts loads and compiles for minutes.
            "downscale_delay_s": 600,
        },
        # The service's own limits come first, whose answers say when to try again.
        max_ongoing_requests=limits.requests,
        max_queued_requests=limits.requests,
        # Tracing a program keeps a process from answering.
        health_check_timeout_s=60,
        graceful_shutdown_timeout_s=limits.seconds,
        deployment_actors=[face_actor(limits)],
    )
    return deployment.bind(make, token_file)
