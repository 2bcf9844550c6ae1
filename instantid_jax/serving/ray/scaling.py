"""Scaling: how many replicas there are, and what each of them gets."""

import dataclasses

from instantid_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """Replicas of the service; each holds the model, on a device of its own.

    Attributes:
      gpus: number that each replica gets; 0 runs on CPUs.
      min_replicas: there are always; with two, the death of a machine ends no service.
      max_replicas: there are at most.
      target_requests: with more at a time for each replica, further ones are started; by default
        the guided images that step together, two rows each.
    """

    gpus: float = 1.0
    min_replicas: int = 1
    max_replicas: int = 8
    target_requests: float = 8.0

    def __post_init__(self):
        least, most = self.min_replicas, self.max_replicas
        if not 0 <= least <= most or not most:
            raise InputError(f"min_replicas={least}, max_replicas={most}: expected 0 <= min <= max")
        if self.gpus < 0 or self.target_requests <= 0:
            raise InputError(
                f"gpus={self.gpus:g}, target_requests={self.target_requests:g}: expected at least "
                "0, and more than 0"
            )
