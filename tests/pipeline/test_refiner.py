"""The hand-over to a refiner: batches, observers, compilations, masks, offloading, refusals."""

import jax
import numpy as np
import pytest

from instantid_jax import InputError, InstantIDPipeline
from instantid_jax.pipeline import refining
from instantid_jax.pipeline.conditions.start import encode_images
from instantid_jax.pipeline.observer import Canceled, Observer
from instantid_jax.pipeline.plan import resolve
from instantid_jax.request import Request
from instantid_jax.sharding import sampling_mesh
from tests.pipeline import small_refiner
from tests.pipeline.small_model import SIZE, person
from tests.pipeline.test_compilation import compiled_by
from tests.pipeline.test_images import IMAGE, begun, mask
from tests.pipeline.test_offload import on_devices

__all__ = ["compiled_by"]

STEPS = 10
COMMON = {
    "face": person(0),
    "height": SIZE[0],
    "width": SIZE[1],
    "num_inference_steps": STEPS,
}


@pytest.fixture(scope="module")
def refiner(tmp_path_factory):
    return small_refiner.write(tmp_path_factory.mktemp("refiner"))


@pytest.fixture(scope="module")
def sources(folder, refiner):
    return {"sdxl": folder, "instantid": folder, "refiner": refiner}


@pytest.fixture(scope="module")
def own(sources):
    return InstantIDPipeline.load(**sources)


@pytest.fixture(scope="module")
def refine(own, sample):
    """Calls the pipeline with a refiner."""
    return lambda **arguments: sample(own, **{"num_inference_steps": STEPS} | arguments)


def test_the_refiner_begins_at_four_fifths(refine, sample):
    default = refine().latents
    np.testing.assert_array_equal(default, refine(denoising_end=0.8).latents)
    assert np.abs(default - refine(denoising_end=0.5).latents).max() > 0.01
    # Without its steps, the latents are those of the base networks.
    plain = sample(num_inference_steps=STEPS).latents
    np.testing.assert_array_equal(refine(denoising_end=1).latents, plain)
    assert np.abs(default - plain).max() > 0.01


def test_observers_see_both_parts(refine):
    class Spy(Observer):
        def __init__(self, last=STEPS):
            self.steps, self.done, self.stages, self.last = [], [], [], last

        def on_stage(self, stage):
            self.stages.append(stage)

        def on_step(self, step):
            self.steps.append((step.index, step.total, float(step.timesteps[0])))
            assert step.preview().shape == (1, SIZE[0] // 8, SIZE[1] // 8, 3)
            if step.index == self.last:
                raise Canceled

        def on_progress(self, done, total):
            self.done.append((done, total))

    spy = Spy()
    refine(observer=spy, output_type="pil")
    assert spy.steps == [(i, STEPS, 901.0 - 100 * i) for i in range(STEPS)]
    assert spy.done == [(i + 1, STEPS) for i in range(STEPS)]
    assert spy.stages == ["encode", "sample", "decode"]
    with pytest.raises(Canceled):
        refine(observer=Spy(last=9))

    class Zeros(Observer):
        def on_step(self, step):
            return np.zeros(step.sample.shape, np.float32) if step.index == 7 else None

    # What is handed over is what an observer returned.
    changed = refine(observer=Zeros()).latents
    assert np.abs(changed - refine().latents).max() > 0.01


def test_changes_compile_nothing(refine, compiled_by):
    refine(output_type="pil")
    changes = {
        "denoising_end": 0.6,
        "num_inference_steps": 7,
        "aesthetic_score": 3,
        "negative_aesthetic_score": 9,
        "seed": 5,
        "prompt": "another",
        "negative_prompt": "snow",
        "guidance_scale": 3,
        "original_size": (40, 40),
    }
    assert compiled_by(refine, output_type="pil") == []
    assert compiled_by(refine, output_type="pil", **changes) == []


@pytest.mark.parametrize(
    "scheduler", ["euler_ancestral", pytest.param("unipc", marks=pytest.mark.slow)]
)
def test_a_batch_hands_over_each_image_where_it_asks(own, scheduler):
    common = COMMON | {"scheduler": scheduler}
    ends = (0.8, 1.0, 0.45)
    requests = [Request("rain", **common, denoising_end=e, seed=i) for i, e in enumerate(ends)]
    together = own.run(requests, output_type="latent").latents
    for i, request in enumerate(requests):
        alone = own.run([request], output_type="latent").latents
        np.testing.assert_allclose(together[i], alone[0], atol=5e-4)


def test_negative_prompts_that_are_none_are_empty_ones(own):
    """Not zeros, as they are for the base networks: so only their part differs."""
    requests = [Request("rain", **COMMON, negative_prompt=each) for each in (None, "", "snow")]
    mixed = own.run(requests, output_type="latent").latents
    for i, request in enumerate(requests):
        alone = own.run([request], output_type="latent").latents
        np.testing.assert_allclose(mixed[i], alone[0], atol=5e-4)
    # From the same latents on, no negative prompt is an empty one.
    handed_over = own.run([requests[0]], output_type="latent").latents
    seen = []

    class Swap(Observer):
        def on_step(self, step):
            seen.append(step.latents)
            return seen[7] if len(seen) == 18 else None

    for request in requests[:2]:
        swapped = own.run([request], output_type="latent", observer=Swap()).latents
    np.testing.assert_allclose(swapped, handed_over, atol=1e-5)


def test_states_of_prompts_serve_the_refiner(refine, monkeypatch):
    """Also of other lengths than whole chunks."""
    hidden = np.random.default_rng(0).standard_normal((1, 80, 96)).astype(np.float32)
    pooled = np.ones((1, 64), np.float32)
    given = {"prompt": None, "prompt_embeds": hidden, "pooled_prompt_embeds": pooled}
    prepared = []
    prepare = refining.programs.prepare_refiner
    monkeypatch.setattr(
        refining.programs,
        "prepare_refiner",
        lambda *args: prepared.append(prepare(*args)) or prepared[-1],
    )
    # The refiner sees the last columns alone, text encoder 2's.
    for columns, same in ((slice(0, 32), True), (slice(32, 96), False)):
        other = hidden.copy()
        other[..., columns] += 1
        prepared.clear()
        refine(**given)
        refine(**given | {"prompt_embeds": other})
        leaves = map(jax.tree.leaves, prepared)
        assert all(np.array_equal(a, b) for a, b in zip(*leaves, strict=True)) is same


def test_a_mask_keeps_the_image_to_the_end(refine):
    arguments = begun(mask_image=mask(40, 48), num_inference_steps=STEPS, strength=0.9)
    plain = refine(denoising_end=1, **arguments).latents
    refined = refine(denoising_end=0.6, **arguments).latents
    np.testing.assert_array_equal(refined[:, :, 8:], plain[:, :, 8:])
    assert np.abs(refined - plain).max() > 1e-3
    made = refine(output_type="pil", **arguments).images[0]
    np.testing.assert_array_equal(np.asarray(made)[mask(40, 48) == 0], IMAGE[mask(40, 48) == 0])


def test_an_image_to_continue_with_gets_no_noise(pipe, sample):
    """As diffusers' image to image with `denoising_start`."""
    clean = encode_images(pipe.model, IMAGE[None])
    arguments = {"num_inference_steps": STEPS, "denoising_start": 0.5}
    ours = sample(**arguments, image=IMAGE, pose=person(0)).latents
    np.testing.assert_allclose(ours, sample(**arguments, latents=clean).latents, atol=1e-5)
    assert (
        np.abs(ours - sample(**arguments, image=IMAGE, pose=person(0), seed=9).latents).max() == 0
    )
    # Other images of a batch begin with noise.
    requests = [
        Request("rain", **COMMON, image=IMAGE, pose=person(0), denoising_start=0.5),
        Request("rain", **COMMON, image=IMAGE, pose=person(0), strength=0.5),
        Request("rain", **COMMON),
    ]
    together = pipe.run(requests, output_type="latent").latents
    for i, request in enumerate(requests):
        alone = pipe.run([request], output_type="latent").latents
        np.testing.assert_allclose(together[i], alone[0], atol=5e-4)


def test_the_base_networks_continue_up_to_the_refiner(refine, sample):
    first = sample(num_inference_steps=STEPS, denoising_end=0.5).latents
    continued = refine(denoising_start=0.5, latents=first).latents
    np.testing.assert_allclose(continued, refine().latents, atol=1e-5)


def test_weights_wait_on_the_host(sources, refine, sample, compiled_by, monkeypatch):
    waiting = InstantIDPipeline.load(**sources, offload=True)
    seen = []
    prepare = refining.programs.prepare_refiner
    monkeypatch.setattr(
        refining.programs,
        "prepare_refiner",
        lambda *given: seen.append(on_devices(waiting.model)) or prepare(*given),
    )
    refine(output_type="pil")
    seen.clear()
    arguments = {"num_inference_steps": STEPS, "output_type": "pil"}
    assert compiled_by(sample, pipe=waiting, **arguments) == []
    assert seen == [{"unet", "image_proj", "refiner"}]
    assert on_devices(waiting.model) == {"unet", "image_proj"}
    np.testing.assert_array_equal(
        sample(waiting, num_inference_steps=STEPS).latents, refine().latents
    )


@pytest.mark.slow
def test_on_a_mesh(sources, refine, sample):
    mesh = sampling_mesh(data=2, guidance=2, devices=jax.devices()[:4])
    several = InstantIDPipeline.load(**sources, mesh=mesh)
    arguments = {"num_inference_steps": STEPS, "num_images_per_prompt": 2, "scheduler": "unipc"}
    ours = sample(several, **arguments).latents
    np.testing.assert_allclose(ours, refine(**arguments).latents, atol=5e-4)
    rows = InstantIDPipeline.load(**sources, mesh=sampling_mesh(rows=2, devices=jax.devices()[:2]))
    # Eight latents of the height are two parts of the refiner's four levels, not of rows.
    with pytest.raises(InputError, match="height"):
        sample(rows, num_inference_steps=STEPS)


def test_images_record_it(own, pipe, refine, sources, tmp_path):
    result = refine(output_type="pil", denoising_end=0.7, aesthetic_score=8)
    (path,) = result.save(tmp_path / "out.png")
    (made,) = result.provenance
    assert made.facts["weights"]["refiner"] == sources["refiner"]
    assert own.model.weights_hash != pipe.model.weights_hash
    request = Request.from_image(path)
    assert (request.denoising_end, request.aesthetic_score) == (0.7, 8.0)
    again = own.run([request], output_type="latent").latents
    np.testing.assert_array_equal(again, result.latents)


def test_perturbed_guidance_is_the_refiners_too(own, refine):
    plan = resolve(own.model, [Request("rain", **COMMON, pag_scale=3)])
    assert plan.refiner.program.perturbed == ("mid_block.attentions.0.transformer_blocks.0.attn1",)
    # FreeU is the base networks' alone.
    assert np.isfinite(refine(pag_scale=3, freeu=(0.9, 0.2, 1.3, 1.4)).latents).all()


def test_too_few_steps_for_the_refiner_are_logged(refine, caplog):
    refine(num_inference_steps=4, scheduler="euler_trailing")
    assert "the refiner takes no step after denoising_end=0.8 of num_inference_steps=4" in (
        caplog.text
    )
    caplog.clear()
    refine(num_inference_steps=4, scheduler="euler_trailing", denoising_end=1)
    assert "the refiner" not in caplog.text


REFUSED = {
    "no step": ({"denoising_end": 0}, r"denoising_end=0 with num_inference_steps=10 leaves no"),
    "low strength": (
        begun(strength=0.1),
        r"denoising_end=0.8 with num_inference_steps=10, strength=0.1 leaves no step to the base",
    ),
    "late start": (
        {"denoising_start": 0.9, "image": IMAGE, "pose": person(0)},
        r"denoising_end=0.8 with .*denoising_start=0.9 leaves no step",
    ),
    "nothing to continue": ({"denoising_start": 0.5}, r"without image or latents"),
    "two starts": (begun(denoising_start=0.5), r"strength and denoising_start both say where"),
    "order": (
        {"denoising_start": 0.5, "denoising_end": 0.4, "image": IMAGE},
        r"denoising_start=0.5 must be below denoising_end=0.4",
    ),
    "mask and latents": (
        begun(
            strength=None,
            denoising_start=0.5,
            mask_image=mask(),
            latents=np.zeros((1, 8, 16, 4), np.float32),
        ),
        r"denoising_start with mask_image and latents",
    ),
    "share": ({"denoising_end": 2}, r"denoising_end"),
    "layers": (
        {"pag_scale": 3, "pag_applied_layers": ("up_blocks.0",)},
        r"pag_applied_layers: no self-attention fits 'up_blocks.0'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(refine, case):
    arguments, line = REFUSED[case]
    with pytest.raises(InputError, match=line) as error:
        refine(**arguments)
    assert "\n" not in str(error.value)
