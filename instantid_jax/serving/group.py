"""A group: the pictures of one kind that are in flight, and their pool."""

from collections.abc import Mapping

import jax

from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.serving import pool
from instantid_jax.serving.picture import Picture, batch_inputs, batch_places
from instantid_jax.serving.pool import Kind


class Group:
    """Steps pictures of one kind; one thread uses it.

    Attributes:
      kind: theirs.
      seconds: that a step takes, by the size of a batch; sizes that are compiled.
      pictures: in flight, by arrival.
    """

    def __init__(self, model: LoadedModel, kind: Kind, seconds: Mapping[int, float], places: int):
        """`places`: of the pool, as many as there are rows at most."""
        self.kind = kind
        self.seconds = dict(seconds)
        self.pictures: list[Picture] = []
        self._model = model
        self._program = kind.program(model.networks.unet, model.networks.controlnets)
        self._places = places
        self._free = list(range(places))
        self._pool: pool.Pool | None = None

    def insert(self, picture: Picture) -> None:
        """Takes a picture that has arrived."""
        arrival, picture.arrival = picture.arrival, None
        assert arrival is not None, "the picture is in a pool already"
        rows = picture.plan.program.halves
        taken, self._free = self._free[:rows], self._free[rows:]
        picture.place, picture.rows = taken[-1], tuple(taken)
        if self._pool is None:
            # Bound to the weights' device as later ones are, or programs would compile twice.
            self._pool = self._model.place(pool.empty_pool(self._places, arrival))
        indices = pool.indices(picture.rows)
        self._pool = pool.insert(self._pool, arrival, pool.indices(picture.place), indices)
        self.pictures.append(picture)

    def step(self, size: int, pictures: list[Picture]) -> jax.Array:
        """Dispatches a step of these pictures.

        Args:
          size: rows of the batch, one of `seconds`.
        Returns:
          Whether each is finite; values beyond the pictures belong to none.
        """
        places = batch_places(pictures, size, self._places)
        inputs = batch_inputs(pictures, places)
        self._pool, finite = pool.advance(
            self._program, self._model.denoiser_params, self._pool, places, inputs
        )
        for picture in pictures:
            picture.step += 1
        return finite

    def latents(self, picture: Picture) -> jax.Array:
        """A picture's latents after its steps so far: [1, H, W, C] float32."""
        return pool.take(self._pool, pool.indices(picture.place))

    def remove(self, picture: Picture) -> None:
        """Frees a picture's places."""
        self.pictures.remove(picture)
        self._free += picture.rows
