"""LoRAs of requests: those with the same ones run together, others wait until they are done.

The engine's weights are the same for all pictures in flight, so they change while there are none.
"""

import collections
import threading
from collections.abc import Callable, Mapping, Sequence

from instantid_jax.weights.lora.sources import Lora, parse_loras

LoraNames = tuple[str, ...]


class Turn:
    """A request's turn, in the order of arrival."""

    def __init__(self, loras: LoraNames):
        self.loras = loras
        self.held = False


class LoraSwitch:
    """Changes the weights between requests.

    Args:
      merge: merges LoRAs into the weights, instead of those before.
      idle: whether nothing uses the weights.
      merged: the LoRAs that are merged at first.
    """

    def __init__(
        self,
        merge: Callable[[LoraNames], None],
        idle: Callable[[], bool],
        merged: LoraNames = (),
    ):
        self._merge = merge
        self._idle = idle
        self._merged = merged
        self._turns: collections.deque[Turn] = collections.deque()
        self._users = 0
        self._lock = threading.Lock()

    def join(self, loras: LoraNames) -> Turn:
        """Takes a place in the line; `leave` must follow."""
        turn = Turn(loras)
        with self._lock:
            self._turns.append(turn)
        return turn

    def enter(self, turn: Turn) -> bool:
        """Whether its LoRAs are merged now, and stay so until it leaves; ask again if not.

        Raises:
          InputError: for LoRAs that cannot be merged.
        """
        with self._lock:
            if turn.held:
                return True
            # Whoever came first is first, so that nobody waits forever.
            if self._turns[0] is not turn:
                return False
            if turn.loras != self._merged:
                if self._users or not self._idle():
                    return False
                self._merge(turn.loras)
                self._merged = turn.loras
            self._turns.popleft()
            self._users += 1
            turn.held = True
            return True

    def leave(self, turn: Turn) -> None:
        """Ends a turn, whether it was held or waited for."""
        with self._lock:
            if turn.held:
                turn.held = False
                self._users -= 1
            elif turn in self._turns:
                self._turns.remove(turn)


class Shelf:
    """The LoRAs that the page offers.

    Args:
      given: those of the command.
      others: more, which are off at first.
    """

    def __init__(self, given: Sequence[str], others: Sequence[str] = ()):
        self._loras: dict[str, Lora] = {}
        self.initial: dict[str, float] = {}
        for lora in parse_loras(given):
            self._loras[lora.source] = lora
            self.initial[lora.source] = lora.unet
        for source in others:
            if source not in self._loras:
                self._loras[source] = Lora(source)
                self.initial[source] = 0.0

    @property
    def sources(self) -> list[str]:
        return list(self._loras)

    def chosen(self, strengths: Mapping[str, float]) -> LoraNames:
        """The LoRAs at these strengths, as the pipeline takes them; those at 0 are left out.

        Raises:
          InputError: for a strength out of range.
        """
        names = []
        for source, lora in self._loras.items():
            strength = strengths.get(source, 0.0)
            if strength:
                text = lora.text
                if text is not None:
                    # Stays in proportion.
                    text = text * strength / lora.unet if lora.unet else text
                names.append(str(Lora(source, strength, text)))
        return tuple(names)

    def strengths(self, names: Sequence[str]) -> tuple[dict[str, float], list[str]]:
        """The strength of each LoRA in recorded names, and the names that are not offered."""
        strengths, unknown = dict.fromkeys(self._loras, 0.0), []
        for lora in parse_loras(names):
            if lora.source in strengths:
                strengths[lora.source] = lora.unet
            else:
                unknown.append(lora.source)
        return strengths, unknown

    def for_preset(self, fast: str) -> list[str]:
        """The LoRAs that a preset needs, by their names."""
        word = fast.partition("-")[0]
        return [source for source in self._loras if word in source.lower()]
