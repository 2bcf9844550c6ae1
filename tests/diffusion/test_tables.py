"""Solvers on equations whose solution is known; their numbers are in tests/parity."""

import numpy as np
import pytest

from instantid_jax.diffusion.rules import StepRule
from instantid_jax.diffusion.tables import multistep, one_step

SPREAD = 0.7  # of the data, a normal distribution


def epsilon(x, sigma):
    """The exact noise prediction for such data, for x of signal 1 and noise sigma."""
    return sigma * x / (SPREAD**2 + sigma**2)


def integrate(rule, rows, sigmas, vp):
    """The error at the last sigma, in float64, after a start without error.

    The first steps, which are of lower order, end at the exact sample.
    """
    alpha = 1 / np.sqrt(sigmas**2 + 1) if vp else np.ones_like(sigmas)
    exact = alpha * np.sqrt((SPREAD**2 + sigmas**2) / (SPREAD**2 + sigmas[0] ** 2))
    state = {"sample": exact[:1]} | {name: np.zeros(1) for name in rule.remembered}
    for i, sigma in enumerate(sigmas[:-1]):
        row = {name: column[i : i + 1] for name, column in rows.items()}
        output = epsilon(state["sample"] / alpha[i], sigma)
        state = rule.step(state, output, row, None)
        if i < 3:
            state["sample"] = exact[i + 1 : i + 2]
            if "corrected" in state:
                state["corrected"] = exact[i : i + 1]
    return abs(state["sample"][0] - exact[-1]) / exact[-1]


def orders(steps, highest):
    return [min(i + 1, highest) for i in range(steps)]


def solvers():
    yield "euler", 1, lambda s: (StepRule(), one_step.euler(s, "epsilon")), False
    for order in (1, 2, 3):
        for heun in {1: (False,), 2: (False, True), 3: (False,)}[order]:
            yield (
                f"dpm_{order}{'_heun' if heun else ''}",
                # The authors' third-order formula, which diffusers has and we follow, halves the
                # curvature: a smaller error, of order 2 all the same.
                min(order, 2),
                lambda s, order=order, heun=heun: (
                    StepRule(order),
                    multistep.dpm_solver(
                        s,
                        "epsilon",
                        orders=orders(len(s) - 1, order),
                        max_order=order,
                        heun=heun,
                        stochastic=False,
                    ),
                ),
                True,
            )
        for bh1 in (False, True):
            yield (
                f"unipc_{order}{'_bh1' if bh1 else ''}",
                order + 1,  # the corrector adds one (Zhao et al. 2023, theorem 3.1)
                lambda s, order=order, bh1=bh1: (
                    StepRule(order, corrects=True),
                    multistep.unipc(
                        s,
                        "epsilon",
                        orders=orders(len(s) - 1, order),
                        max_order=order,
                        bh1=bh1,
                        uncorrected=(),
                    ),
                ),
                True,
            )


@pytest.mark.parametrize(
    "expected, make, vp", [pytest.param(*rest, id=name) for name, *rest in solvers()]
)
def test_order_of_convergence(expected, make, vp):
    """Twice the steps, 2^order times less error."""
    errors = []
    for steps in (40, 80):
        sigmas = np.geomspace(10, 0.1, steps + 1)
        errors.append(integrate(*make(sigmas), sigmas, vp))
    measured = np.log2(errors[0] / errors[1])
    assert expected - 0.4 < measured < expected + 0.8, (measured, errors)


def test_third_order_is_better_than_second():
    steps, errors = 40, {}
    sigmas = np.geomspace(10, 0.1, steps + 1)
    for name, _, make, vp in solvers():
        errors[name] = integrate(*make(sigmas), sigmas, vp)
    assert errors["dpm_3"] < 0.5 * errors["dpm_2"]
    assert errors["unipc_3"] < 0.1 * errors["unipc_2"]


@pytest.mark.parametrize("bh1", [False, True])
def test_unipc_ends_at_the_denoised_sample(bh1):
    """A step to sigma 0 is a first-order one with finite coefficients, for both B(h)."""
    sigmas = np.array([10.0, 1.0, 0.0])
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = multistep.unipc(
            sigmas, "epsilon", orders=[1, 1], max_order=2, bh1=bh1, uncorrected=()
        )
    assert all(np.isfinite(column).all() for column in rows.values())
    assert rows["sample"][-1] == 0 and rows["converted"][-1] == 1
    assert rows["difference_1"][-1] == 0


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_keeps_the_variance(prediction_type, eta):
    """For pure noise the prediction is known: x = s z, ε = z or v = α z."""
    alpha, alpha_next = np.array([0.1, 0.5]), np.array([0.5, 0.9])
    rows = one_step.ddim(alpha, alpha_next, prediction_type, eta)
    output = 1.0 if prediction_type == "epsilon" else np.sqrt(alpha)
    kept = rows["sample"] * np.sqrt(1 - alpha) + rows["converted"] * output
    added = rows.get("noise", 0.0)
    np.testing.assert_allclose(kept**2 + added**2, 1 - alpha_next)
    assert np.all(added > 0) if eta else "noise" not in rows


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_stochastic_sigmas_keep_the_variance(prediction_type):
    sigmas = np.array([10.0, 3.0, 0.5, 0.0])
    alpha = 1 / np.sqrt(sigmas**2 + 1)
    output = 1.0 if prediction_type == "epsilon" else alpha[:-1]

    rows = one_step.euler_ancestral(sigmas, prediction_type)
    kept = rows["sample"] * sigmas[:-1] + rows["converted"] * output
    np.testing.assert_allclose(kept**2 + rows["noise"] ** 2, sigmas[1:] ** 2, atol=1e-12)

    with np.errstate(divide="ignore", invalid="ignore"):
        rows = multistep.dpm_solver(
            sigmas, prediction_type, orders=[1, 1, 1], max_order=1, heun=False, stochastic=True
        )
    noisy = (sigmas * alpha)[:-1]
    kept = rows["sample"] * noisy + rows["converted"] * output
    np.testing.assert_allclose(kept**2 + rows["noise"] ** 2, (sigmas * alpha)[1:] ** 2, atol=1e-12)


def test_lcm_ends_without_noise():
    timesteps, alpha = np.array([999, 499]), np.array([0.005, 0.3])
    rows = one_step.lcm(timesteps, alpha, "epsilon", 10.0)
    np.testing.assert_allclose(rows["noise"], [np.sqrt(1 - 0.3), 0.0])
