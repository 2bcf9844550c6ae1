import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import normalized_guidance
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import rescale_noise_cfg

from instantid_jax.diffusion.guidance import Guidance, classifier_free_guidance, guide
from instantid_jax.diffusion.tables.predictions import of_denoised, of_velocity


def predictions(batch=2):
    return np.random.default_rng(0).standard_normal((2 * batch, 4, 4, 3), np.float32)


def test_formula(strict_promotion):
    both = predictions()
    negative, positive = both[:2], both[2:]
    guided = classifier_free_guidance(jnp.asarray(both), 5.0)
    np.testing.assert_allclose(guided, negative + 5 * (positive - negative), rtol=1e-6, atol=1e-6)


def test_scale_of_one_and_of_zero():
    both = predictions()
    np.testing.assert_allclose(classifier_free_guidance(both, 1.0), both[2:], atol=1e-6)
    np.testing.assert_array_equal(classifier_free_guidance(both, 0.0), both[:2])


def test_float32_from_bfloat16():
    both = jnp.asarray(predictions(), jnp.bfloat16)
    guided = classifier_free_guidance(both, 5.0)
    assert guided.dtype == jnp.float32
    exact = classifier_free_guidance(both.astype(jnp.float32), 5.0)
    np.testing.assert_array_equal(guided, exact)


def test_wrong_shapes():
    with pytest.raises(ValueError, match="negative, positive"):
        classifier_free_guidance(predictions()[:3], 5.0)


# -- further forms --------------------------------------------------------------------------------

SCALES = np.array([5.0, 2.0], np.float32)
INPUT = np.random.default_rng(1).standard_normal((2, 4, 4, 3), np.float32)
OFF = {
    "apg_eta": 1.0,
    "apg_threshold": np.inf,
    "pag_scale": 0.0,
    "rescale": 0.0,
    "rescale_v": 0.0,
    "denoised_offset": -0.7,
    "velocity_offset": -0.6,
}


def numbers(**given) -> Guidance:
    values = {"scale": SCALES, "mimic_scale": given.get("scale", SCALES)} | OFF | given
    return Guidance(*(np.broadcast_to(np.float32(values[name]), 2) for name in Guidance._fields))


def guided(output, negative=True, perturbed=False, **given) -> np.ndarray:
    inputs = (jnp.asarray(output), jnp.asarray(INPUT), numbers(**given))
    return np.asarray(guide(*inputs, negative=negative, perturbed=perturbed))


def columns(values) -> np.ndarray:
    return np.reshape(values, (-1, 1, 1, 1)).astype(np.float64)


def test_all_forms_off_leave_every_bit():
    plain = classifier_free_guidance(predictions(), SCALES)
    np.testing.assert_array_equal(guided(predictions()), plain)
    ones = {"scale": np.ones(2), "mimic_scale": 1.0}
    np.testing.assert_array_equal(
        guided(predictions(), **ones), classifier_free_guidance(predictions(), np.ones(2))
    )


def test_rescaling_is_diffusers():
    both = predictions()
    plain = classifier_free_guidance(both, SCALES)
    expected = rescale_noise_cfg(torch.tensor(plain), torch.tensor(both[2:]), 0.7)
    np.testing.assert_allclose(guided(both, rescale=0.7), expected, atol=1e-6)


def test_velocity_is_rescaled_for_every_kind_of_prediction():
    """Both outputs become velocities, are rescaled by diffusers' function, and turn back."""
    both, alpha, deviation = predictions().astype(np.float64), 0.8, 0.6
    for kind in ("epsilon", "v_prediction", "sample"):
        of_input, of_output = of_velocity(np.array(alpha), np.array(deviation), kind)
        plain = np.asarray(classifier_free_guidance(jnp.asarray(both), SCALES), np.float64)
        velocity, positive = (of_input * INPUT + of_output * each for each in (plain, both[2:]))
        rescaled = rescale_noise_cfg(torch.tensor(velocity), torch.tensor(positive), 0.7)
        expected = (rescaled.numpy() - of_input * INPUT) / of_output
        ours = guided(both, rescale_v=0.7, velocity_offset=of_input / of_output)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("threshold", [np.inf, 3.0])
def test_projection_is_diffusers_for_the_denoised_image(eta, threshold):
    both, alpha, deviation = predictions().astype(np.float64), 0.8, 0.6
    of_input, of_output = of_denoised(np.array(alpha), np.array(deviation), "epsilon")
    negative, positive = (torch.tensor(of_input * INPUT + of_output * x) for x in np.split(both, 2))
    expected = [
        normalized_guidance(
            *(positive[i : i + 1], negative[i : i + 1], scale - 1),
            eta=eta,
            norm_threshold=0.0 if threshold == np.inf else threshold,
            use_original_formulation=True,
        )
        for i, scale in enumerate(SCALES)
    ]
    denoised = of_input * INPUT + of_output * guided(
        both,
        apg_eta=eta,
        apg_threshold=threshold / abs(of_output),
        denoised_offset=of_input / of_output,
    )
    np.testing.assert_allclose(denoised, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_mimicked_range_of_the_denoised_image():
    both, offset, pixels = predictions(), -0.7, (1, 2)

    def denoised(scale):
        negative, positive = np.split(both.astype(np.float64), 2)
        return negative + columns(scale) * (positive - negative) + offset * INPUT

    asked, mimicked = denoised(SCALES), denoised([1.5, 1.5])
    mean = asked.mean(pixels, keepdims=True)
    largest = np.abs(asked - mean).max(pixels, keepdims=True)
    allowed = np.abs(mimicked - mimicked.mean(pixels, keepdims=True)).max(pixels, keepdims=True)
    expected = mean + (asked - mean) * np.minimum(1, allowed / largest)
    ours = guided(both, mimic_scale=1.5, denoised_offset=offset) + offset * INPUT
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    assert (allowed < largest).any()


def test_perturbed_rows_are_subtracted():
    three = np.concatenate([predictions(), INPUT])
    negative, positive, perturbed = np.split(three, 3)
    expected = negative + columns(SCALES) * (positive - negative) + 3 * (positive - perturbed)
    ours = guided(three, perturbed=True, pag_scale=3.0)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    alone = guided(three[2:], negative=False, perturbed=True, pag_scale=3.0)
    np.testing.assert_allclose(alone, positive + 3 * (positive - perturbed), rtol=1e-5, atol=1e-5)


def test_equal_outputs_are_left_as_they_are():
    """No norm, no range and no deviation to divide by."""
    flat = np.ones((4, 4, 4, 3), np.float32)
    given = {"apg_eta": 0.0, "apg_threshold": 15.0, "rescale": 0.0, "rescale_v": 0.7}
    ours = guided(flat, **given, mimic_scale=1.0)
    np.testing.assert_allclose(ours, flat[:2], atol=1e-5)
