"""Differences against plain sums in float64, and identities between the forms."""

import math

import numpy as np
import pytest

from instantid_jax.weights.lora.forms import MisfitError, form_of, normalized

OUT, IN, R, K = 6, 8, 3, 3


def drawn(seed: int, **shapes) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {role: random.standard_normal(shape) for role, shape in shapes.items()}


def difference(factors: dict[str, np.ndarray]) -> np.ndarray:
    form = form_of({role: value.shape for role, value in factors.items()})
    found = form.difference(factors)
    assert found.size == math.prod(form.shape)
    return found.reshape(form.shape)


def lora(factors, out, inside, *kernel):
    """Sums over the rank, one by one."""
    up, down = factors["lora_up"].reshape(out, R), factors["lora_down"].reshape(R, inside, *kernel)
    return sum(np.multiply.outer(up[:, r], down[r]) for r in range(R))


def test_matrices():
    factors = drawn(0, lora_up=(OUT, R), lora_down=(R, IN))
    np.testing.assert_allclose(difference(factors), lora(factors, OUT, IN), rtol=1e-12)


def test_convolutions():
    factors = drawn(1, lora_up=(OUT, R, 1, 1), lora_down=(R, IN, K, K))
    np.testing.assert_allclose(difference(factors), lora(factors, OUT, IN, K, K), rtol=1e-12)


def test_tucker_convolutions():
    factors = drawn(2, lora_up=(OUT, R, 1, 1), lora_mid=(R, R, K, K), lora_down=(R, IN, 1, 1))
    up, mid, down = (factors[f"lora_{n}"] for n in ("up", "mid", "down"))
    wanted = np.zeros((OUT, IN, K, K))
    for i in range(R):
        for j in range(R):
            row = up[:, i, 0, 0][:, None, None, None] * down[j, :, 0, 0][:, None, None]
            wanted += row * mid[i, j]
    np.testing.assert_allclose(difference(factors), wanted, rtol=1e-12)
    # With a core that is the identity at one place, it is a LoRA there.
    core = np.zeros((R, R, K, K))
    core[:, :, 1, 2] = np.eye(R)
    plain = difference({role: v for role, v in factors.items() if role != "lora_mid"})
    np.testing.assert_allclose(
        difference(factors | {"lora_mid": core})[:, :, 1, 2], plain[:, :, 0, 0], rtol=1e-12
    )


@pytest.mark.parametrize("kernel", [(), (K, K)])
def test_loha(kernel):
    wide = IN * math.prod(kernel)
    names = {f"hada_w{i}_a": (OUT, R) for i in (1, 2)} | {f"hada_w{i}_b": (R, wide) for i in (1, 2)}
    factors = drawn(3, **names)
    first, second = (factors[f"hada_w{i}_a"] @ factors[f"hada_w{i}_b"] for i in (1, 2))
    np.testing.assert_allclose(difference(factors), first * second, rtol=1e-12)
    # With ones as its second product, it is a LoRA.
    ones = {"hada_w2_a": np.full((OUT, R), 1 / R), "hada_w2_b": np.ones((R, wide))}
    np.testing.assert_allclose(difference(factors | ones), first, rtol=1e-12)


def test_tucker_loha():
    names = {f"hada_w{i}_a": (R, OUT) for i in (1, 2)} | {f"hada_w{i}_b": (R, IN) for i in (1, 2)}
    factors = drawn(4, **names, hada_t1=(R, R, K, K), hada_t2=(R, R, K, K))
    products = []
    for i in (1, 2):
        t, a, b = (factors[f"hada_{n}"] for n in (f"t{i}", f"w{i}_a", f"w{i}_b"))
        total = np.zeros((OUT, IN, K, K))
        for p in range(R):
            for q in range(R):
                total += a[p][:, None, None, None] * b[q][:, None, None] * t[p, q]
        products.append(total)
    np.testing.assert_allclose(difference(factors), products[0] * products[1], rtol=1e-12)


LOKR = {
    "whole": {"lokr_w1": (2, 4), "lokr_w2": (3, 2)},
    "both factored": {
        **{"lokr_w1_a": (2, R), "lokr_w1_b": (R, 4)},
        **{"lokr_w2_a": (3, R), "lokr_w2_b": (R, 2)},
    },
    "convolution": {"lokr_w1": (2, 4), "lokr_w2": (3, 2, K, K)},
    "convolution, factored": {"lokr_w1": (2, 4), "lokr_w2_a": (3, R), "lokr_w2_b": (R, 2 * K * K)},
    "convolution, Tucker": {
        **{"lokr_w1": (2, 4), "lokr_t2": (R, R, K, K)},
        **{"lokr_w2_a": (R, 3), "lokr_w2_b": (R, 2)},
    },
    "first factor as a kernel": {"lokr_w1": (2, 4, 1, 1), "lokr_w2": (3, 2, K, K)},
}


@pytest.mark.parametrize("case", LOKR)
def test_lokr(case):
    factors = drawn(5, **LOKR[case])
    first = factors.get("lokr_w1")
    if first is None:
        first = factors["lokr_w1_a"] @ factors["lokr_w1_b"]
    second = factors.get("lokr_w2")
    if "lokr_t2" in factors:
        a, b, t = (factors[f"lokr_{name}"] for name in ("w2_a", "w2_b", "t2"))
        second = sum(
            a[i][:, None, None, None] * b[j][:, None, None] * t[i, j]
            for i in range(R)
            for j in range(R)
        )
    elif second is None:
        second = factors["lokr_w2_a"] @ factors["lokr_w2_b"]
    first = first.reshape(2, 4)
    second = second.reshape(3, 2, -1)
    wanted = np.zeros((6, 8, second.shape[-1]))
    for a in range(2):
        for c in range(4):
            wanted[3 * a : 3 * a + 3, 2 * c : 2 * c + 2] = first[a, c] * second
    np.testing.assert_allclose(difference(factors).reshape(wanted.shape), wanted, rtol=1e-12)


def test_lokr_of_one_number_is_its_second_factor():
    factors = drawn(6, lokr_w2=(OUT, IN)) | {"lokr_w1": np.ones((1, 1))}
    np.testing.assert_array_equal(difference(factors), factors["lokr_w2"])


@pytest.mark.parametrize(
    ("shapes", "rank"),
    [
        ({"lora_up": (OUT, R), "lora_down": (R, IN)}, R),
        (
            {
                "hada_w1_a": (OUT, R),
                "hada_w1_b": (R, IN),
                "hada_w2_a": (OUT, R),
                "hada_w2_b": (R, IN),
            },
            R,
        ),
        ({"lokr_w1": (2, 4), "lokr_w2": (3, 2)}, None),
        ({"lokr_w1": (2, 4), "lokr_w2_a": (3, R), "lokr_w2_b": (R, 2)}, R),
        ({"lokr_w1_a": (2, R), "lokr_w1_b": (R, 4), "lokr_w2": (3, 2)}, R),
        ({"diff": (OUT, IN)}, None),
    ],
)
def test_an_alpha_is_divided_by_the_rank(shapes, rank):
    assert form_of(shapes).rank == rank


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("kernel", [(), (K, K)])
def test_dora_scales_each_row_or_column(axis, kernel):
    weight = np.random.default_rng(7).standard_normal((OUT, IN, *kernel))
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    norms = np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(normalized(weight, norms, axis), weight, rtol=1e-12)
    doubled = normalized(weight, 2 * norms, axis)
    np.testing.assert_allclose(doubled, 2 * weight, rtol=1e-12)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"lora_up": (OUT, R)}, "lora_up without lora_down"),
        ({"lora_down": (R, IN)}, "lora_down without lora_up"),
        ({"lora_up": (OUT, R), "lora_down": (R + 1, IN)}, "do not fit each other"),
        ({"lora_up": (OUT, R, K, K), "lora_down": (R, IN, 1, 1)}, "do not fit each other"),
        ({"hada_w1_a": (OUT, R), "hada_w1_b": (R, IN)}, "without hada_w2_a, hada_w2_b"),
        ({"lokr_w1": (2, 4)}, "no lokr_w2"),
        ({"lokr_w1": (2, 4), "lokr_w2_a": (3, R)}, "no lokr_w2"),
        ({"lora_up": (OUT, R), "lora_down": (R, IN), "diff": (OUT, IN)}, "do not go together"),
        ({}, "lokr_w1"),
    ],
)
def test_factors_that_do_not_belong_together_are_refused(shapes, message):
    with pytest.raises(MisfitError, match=message):
        form_of(shapes)
