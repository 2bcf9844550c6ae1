"""How the factors in a file make the difference that they add to a weight.

Shapes are torch's: [out, in] of a matrix, [out, in, kh, kw] of a convolution, R the rank.

Sources: Hu et al. 2021 (LoRA); kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS
(LoCon, LoHa, LoKr and their Tucker forms); Liu et al. 2024 (DoRA).
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np

Arrays = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


class MisfitError(ValueError):
    """Factors that do not fit each other; the message says how."""


@dataclasses.dataclass(frozen=True)
class Form(abc.ABC):
    """A way to make a difference.

    Attributes:
      shapes: the factors' shapes by role, which is the end of their names in kohya's and LyCORIS'
        files.
      name: for messages.
      needs, takes: roles that it must have and may have.
    """

    shapes: Mapping[str, Shape]
    name: ClassVar[str]
    needs: ClassVar[frozenset[str]]
    takes: ClassVar[frozenset[str]] = frozenset()

    @property
    @abc.abstractmethod
    def rank(self) -> int | None:
        """The divisor of an alpha; None if alphas do not count."""

    @property
    @abc.abstractmethod
    def shape(self) -> Shape:
        """Shape of the difference: [out, in, ...], or [out, in kh kw].

        Raises:
          MisfitError: if the factors do not fit each other.
        """

    @abc.abstractmethod
    def difference(self, factors: Arrays) -> np.ndarray:
        """The difference, unscaled, in the dtype of the factors."""


class LoRA(Form):
    """down [R, in(, kh, kw)], up [out, R(, 1, 1)]; kh kw also of LoCon."""

    name = "LoRA"
    needs = frozenset({"lora_up", "lora_down"})

    @property
    def rank(self) -> int:
        return self.shapes["lora_down"][0]

    @property
    def shape(self) -> Shape:
        up, down = self.shapes["lora_up"], self.shapes["lora_down"]
        _check(math.prod(up[1:]) == down[0], f"up {up}, down {down}")
        return (up[0], *down[1:])

    def difference(self, factors: Arrays) -> np.ndarray:
        return _matrix(factors["lora_up"]) @ _matrix(factors["lora_down"])


class TuckerLoRA(LoRA):
    """down [R, in, 1, 1], mid [R, R, kh, kw], up [out, R, 1, 1]."""

    name = "LoRA (Tucker)"
    needs = frozenset({"lora_up", "lora_mid", "lora_down"})

    @property
    def shape(self) -> Shape:
        up, mid, down = (self.shapes[role] for role in ("lora_up", "lora_mid", "lora_down"))
        fits = math.prod(up[1:]) == mid[0] and mid[1] == down[0] and math.prod(down[2:]) == 1
        _check(fits, f"up {up}, mid {mid}, down {down}")
        return (up[0], down[1], *mid[2:])

    def difference(self, factors: Arrays) -> np.ndarray:
        up, down = _matrix(factors["lora_up"]), _matrix(factors["lora_down"])
        return np.einsum("ijkl,oi,jn->onkl", factors["lora_mid"], up, down, optimize=True)


class LoHa(Form):
    """The elementwise product of two products, each w_a [out, R] @ w_b [R, in kh kw]."""

    name = "LoHa"
    needs = frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"})

    @property
    def rank(self) -> int:
        return self.shapes["hada_w1_b"][0]

    @property
    def shape(self) -> Shape:
        (a1, b1), (a2, b2) = (
            (self.shapes[f"hada_w{i}_a"], self.shapes[f"hada_w{i}_b"]) for i in (1, 2)
        )
        fits = a1[1:] == b1[:1] and a2[1:] == b2[:1] and a1[0] == a2[0] and b1[1:] == b2[1:]
        _check(fits, f"w1_a {a1}, w1_b {b1}, w2_a {a2}, w2_b {b2}")
        return (a1[0], *b1[1:])

    def difference(self, factors: Arrays) -> np.ndarray:
        first, second = (factors[f"hada_w{i}_a"] @ _matrix(factors[f"hada_w{i}_b"]) for i in (1, 2))
        return first * second


class TuckerLoHa(LoHa):
    """As `LoHa`; each factor has w_a [R, out], w_b [R, in] and t [R, R, kh, kw]."""

    name = "LoHa (Tucker)"
    needs = LoHa.needs | {"hada_t1", "hada_t2"}

    @property
    def shape(self) -> Shape:
        shapes = [
            tuple(self.shapes[role] for role in (f"hada_t{i}", f"hada_w{i}_a", f"hada_w{i}_b"))
            for i in (1, 2)
        ]
        for t, a, b in shapes:
            _check(t[:2] == (a[0], b[0]), f"t {t}, w_a {a}, w_b {b}")
        (t1, a1, b1), (t2, a2, b2) = shapes
        _check((t1[2:], a1[1:], b1[1:]) == (t2[2:], a2[1:], b2[1:]), f"t1 {t1}, t2 {t2}")
        return (a1[1], b1[1], *t1[2:])

    def difference(self, factors: Arrays) -> np.ndarray:
        first, second = (
            np.einsum(
                "ijkl,jn,io->onkl",
                factors[f"hada_t{i}"],
                factors[f"hada_w{i}_b"],
                factors[f"hada_w{i}_a"],
                optimize=True,
            )
            for i in (1, 2)
        )
        return first * second


class LoKr(Form):
    """The Kronecker product of w1 [a, c] and w2 [b, d(, kh, kw)], either as a product of factors.

    With `lokr_t2` [R, R, kh, kw], w2_a is [R, b] and w2_b [R, d].
    """

    name = "LoKr"
    needs = frozenset()
    takes = frozenset(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2"))

    @property
    def rank(self) -> int | None:
        # Files with both factors whole have meaningless alphas, such as 1e10.
        factored = self.shapes.get("lokr_w2_b", self.shapes.get("lokr_w1_b"))
        return None if factored is None else factored[0]

    @property
    def shape(self) -> Shape:
        first, second = self._shape_of("lokr_w1"), self._shape_of("lokr_w2")
        _check(math.prod(first[2:]) == 1, f"w1 {first}")
        return (first[0] * second[0], first[1] * second[1], *second[2:])

    def _shape_of(self, factor: str) -> Shape:
        if factor in self.shapes:
            return self.shapes[factor]
        roles = [f"{factor}_a", f"{factor}_b"]
        _check(all(role in self.shapes for role in roles), f"no {factor}, and not both of {roles}")
        a, b = (self.shapes[role] for role in roles)
        if factor == "lokr_w2" and "lokr_t2" in self.shapes:
            t = self.shapes["lokr_t2"]
            _check(t[:2] == (a[0], b[0]), f"t2 {t}, w2_a {a}, w2_b {b}")
            return (a[1], b[1], *t[2:])
        _check(a[1:] == b[:1], f"{factor}_a {a}, {factor}_b {b}")
        return (a[0], *b[1:])

    def difference(self, factors: Arrays) -> np.ndarray:
        # Columns of w2 keep their order [d, kh, kw], so this is the weight with its columns joined.
        return np.kron(
            _matrix(self._factor("lokr_w1", factors)), _matrix(self._factor("lokr_w2", factors))
        )

    def _factor(self, factor: str, factors: Arrays) -> np.ndarray:
        if factor in factors:
            return factors[factor]
        a, b = factors[f"{factor}_a"], factors[f"{factor}_b"]
        if factor == "lokr_w2" and "lokr_t2" in factors:
            return np.einsum("ijkl,ib,jd->bdkl", factors["lokr_t2"], a, b, optimize=True)
        return a @ _matrix(b)


class Full(Form):
    """The difference itself; of a norm, too."""

    name = "full difference"
    needs = frozenset({"diff"})

    @property
    def rank(self) -> None:
        return None

    @property
    def shape(self) -> Shape:
        return self.shapes["diff"]

    def difference(self, factors: Arrays) -> np.ndarray:
        return factors["diff"]


FORMS: tuple[type[Form], ...] = (LoRA, TuckerLoRA, LoHa, TuckerLoHa, LoKr, Full)


def form_of(shapes: Mapping[str, Shape]) -> Form:
    """The form whose factors these are.

    Args:
      shapes: the factors' shapes by role.
    Raises:
      MisfitError: if some are missing, or do not fit each other.
    """
    roles = frozenset(shapes)
    for form in FORMS:
        if form.needs <= roles <= form.needs | form.takes:
            found = form(shapes)
            try:
                # Checks that the factors fit each other.
                empty = not math.prod(found.shape) or not found.shape or found.rank == 0
            except IndexError:
                empty = True
            _check(not empty, ", ".join(f"{role} {shape}" for role, shape in shapes.items()))
            return found
    held = f"it has {', '.join(sorted(roles))}"
    if any(form.needs and form.needs <= roles for form in FORMS):
        raise MisfitError(f"{held}, which do not go together")
    for form in FORMS:
        if form.needs & roles:
            raise MisfitError(f"{held} without {', '.join(sorted(form.needs - roles))}")
    raise MisfitError(f"{held}, which do not go together")


def normalized(weight: np.ndarray, magnitudes: np.ndarray, axis: int) -> np.ndarray:
    """A weight whose norm along all axes but one is `magnitudes`.

    Args:
      axis: 0 for a magnitude per output, 1 per input.
    Source: Liu et al. 2024, equation 5.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    norms = np.sqrt(np.square(weight).sum(others, keepdims=True))
    shape = tuple(-1 if i == axis else 1 for i in range(weight.ndim))
    return weight * (magnitudes.reshape(shape) / norms)


def _matrix(factor: np.ndarray) -> np.ndarray:
    """[n, rest], with the further axes joined."""
    return factor.reshape(len(factor), -1)


def _check(fits: bool, what: str) -> None:
    if not fits:
        raise MisfitError(f"the factors do not fit each other: {what}")
