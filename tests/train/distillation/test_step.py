"""The lesson of a teacher against the pipeline, and what the student learns from it."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from instantid_jax.diffusion.samplers import make_sampler
from instantid_jax.diffusion.schedule import alphas_cumprod
from instantid_jax.pipeline import InstantIDPipeline
from instantid_jax.request import Request
from instantid_jax.sharding import batch_sharding, replicated, shard_params, training_mesh
from tests.parity.reference import relative_error
from tests.train import small, tiny_config
from train.compiled_step import compiled_step, frozen_specs
from train.distillation.config import DistillationConfig
from train.distillation.factors import factor_shapes, init_factors
from train.distillation.step import distillation_loss, step_of, teach, trailing_timesteps
from train.model import Frozen, constants, find_base, frozen_sharding
from train.objective import ObjectiveConfig, draw
from train.parallel import losses_on_mesh
from train.state import init_state
from train.step import loss_and_gradients

ROWS = 2
KEY = jax.random.key(3)
EXAMPLES = np.arange(ROWS, dtype=np.uint32)
# Few layers of the tiny model are as large as the usual rank.
TAUGHT = DistillationConfig(
    steps=1,
    teacher_steps=3,
    guidance_scale=2.5,
    ip_adapter_scale=0.6,
    controlnet_conditioning_scale=0.7,
    rank=4,
)


def one_device():
    return training_mesh((1, 1, 1), jax.devices()[:1])


@pytest.fixture(scope="module")
def config():
    made = tiny_config.get_config()
    model = dataclasses.replace(made.model, instantid=made.model.sdxl)
    return dataclasses.replace(made, model=model, distillation=TAUGHT)


@pytest.fixture(scope="module")
def base(config):
    return find_base(config.model, distillation=TAUGHT)


@pytest.fixture(scope="module")
def given(config, base):
    mesh = one_device()
    return constants(base, Frozen(base, config, mesh).params, mesh)


@pytest.fixture(scope="module")
def batch(base):
    prompts = ["a man in the rain", "a woman on mars, film noir"]
    first, second = (tokenizer(prompts) for tokenizer in base.tokenizers)
    time_ids = np.array([[64, 64, 0, 0, 64, 64]] * ROWS, np.float32)
    given = {"input_ids": first, "input_ids_2": second, "time_ids": time_ids}
    return small.batch(ROWS) | given | {"prompts": prompts}


def arrays(batch):
    return {name: value for name, value in batch.items() if name != "prompts"}


@pytest.mark.slow
def test_the_teacher_is_the_guided_pipeline(config, base, given, batch):
    draws = draw(ObjectiveConfig(), KEY, EXAMPLES, (8, 8, 4), given.alphas_cumprod)
    lesson = jax.jit(functools.partial(teach, base.networks, ObjectiveConfig()))(
        given, arrays(batch), draws
    )
    np.testing.assert_array_equal(lesson.timesteps, [999, 999])
    alpha = alphas_cumprod(base.schedule)[999]
    sigma = make_sampler(base.schedule, "euler_trailing", 3).init_noise_sigma
    pipe = InstantIDPipeline.load(sdxl=config.model.sdxl, instantid=config.model.instantid)
    made = pipe.run(
        [
            Request(
                prompt,
                image_embeds=batch["id_embeds"][i],
                kps_image=batch["keypoint_images"][i],
                latents=np.asarray(lesson.noisy[i : i + 1]) / np.sqrt(alpha) / sigma,
                scheduler="euler_trailing",
                num_inference_steps=3,
                guidance_scale=2.5,
                ip_adapter_scale=0.6,
                controlnet_conditioning_scale=0.7,
            )
            for i, prompt in enumerate(batch["prompts"])
        ],
        output_type="latent",
    )
    assert relative_error(np.asarray(lesson.clean), made.latents) < 1e-5


def test_a_timestep_belongs_to_the_step_that_begins_above_it():
    begins = trailing_timesteps(4, 1000)[:-1]
    found = begins[step_of(np.array([0, 249, 250, 499, 500, 749, 750, 999]), 4, 1000)]
    np.testing.assert_array_equal(found, [249, 249, 499, 499, 749, 749, 999, 999])


def test_steps_of_the_student_end_where_the_teachers_do():
    taught, teaching = trailing_timesteps(4, 1000), trailing_timesteps(16, 1000)
    np.testing.assert_array_equal(taught, [999, 749, 499, 249, 1000])
    np.testing.assert_array_equal(teaching[::4], taught)


@functools.cache
def gradients_of(networks, prediction_type):
    step = tiny_config.get_config().step
    objective = ObjectiveConfig(prediction_type=prediction_type)
    return jax.jit(
        functools.partial(loss_and_gradients, distillation_loss, networks, objective, step)
    )


@pytest.mark.slow
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_nothing_is_to_be_learned_from_ones_own_step(base, given, batch, prediction_type):
    factors = init_factors(base.networks.unet, TAUGHT.rank, jax.random.key(0))
    config = dataclasses.replace(TAUGHT, steps=4, teacher_steps=1)
    losses = []
    for guidance in (1.0, 2.5):
        student = dataclasses.replace(base.networks.student, config=config, guidance_scale=guidance)
        networks = dataclasses.replace(base.networks, student=student)
        each, gradients = gradients_of(networks, prediction_type)(
            factors, given, arrays(batch), EXAMPLES, KEY
        )
        losses.append(float(each["loss"].mean()))
        assert gradients.keys() == factors.keys()
    assert losses[0] < 1e-8 < 1e-3 < losses[1]


def filled(base, seed):
    """Factors whose LoRA changes the UNet, unlike new ones."""
    random = np.random.default_rng(seed)
    shapes = factor_shapes(base.networks.unet, TAUGHT.rank)
    return {
        name: 0.1 * random.standard_normal(shape.shape, np.float32)
        for name, shape in shapes.items()
    }


def after(base):
    """Networks whose teacher has a LoRA and no guidance."""
    config = dataclasses.replace(TAUGHT, steps=4, teacher_steps=1, lora="read before")
    student = dataclasses.replace(base.networks.student, config=config, guidance_scale=1.0)
    return dataclasses.replace(base.networks, student=student)


def losses_of(networks, params, constants, batch, examples, key, whole=lambda params: params):
    """The loss of each example, [B]."""
    objective, step = ObjectiveConfig(), tiny_config.get_config().step
    draws = draw(objective, key, examples, (8, 8, 4), constants.alphas_cumprod)
    loss_of = distillation_loss(networks, objective, step, constants, batch, draws, whole)
    return loss_of(params)[1]["loss"]


@functools.cache
def on_one_device(networks):
    return jax.jit(functools.partial(losses_of, networks))


@pytest.mark.slow
def test_the_teacher_of_a_later_stage_is_the_earlier_student(base, given, batch):
    lora = filled(base, 1)
    given = given._replace(frozen=given.frozen | {"lora": lora})
    losses = on_one_device(after(base))
    new = init_factors(base.networks.unet, TAUGHT.rank, jax.random.key(0))
    found = [losses(f, given, arrays(batch), EXAMPLES, KEY).mean() for f in (lora, new)]
    assert found[0] < 1e-8 < 1e-3 < found[1]


@pytest.mark.slow
def test_a_mesh_measures_what_one_device_does(config, base, given, batch):
    """With all weights sharded, those of the teacher's LoRA, too."""
    networks, factors = after(base), filled(base, 2)
    given = given._replace(frozen=given.frozen | {"lora": filled(base, 1)})
    expected = on_one_device(networks)(factors, given, arrays(batch), EXAMPLES, KEY)
    mesh = training_mesh((1, 2, 2), jax.devices()[:4])
    sharded = dataclasses.replace(config, mesh=dataclasses.replace(config.mesh, frozen="sharded"))
    losses = losses_on_mesh(
        functools.partial(losses_of, networks),
        mesh,
        params=factors,
        frozen=frozen_specs(sharded, networks, mesh),
    )
    shardings = frozen_sharding(networks, sharded, mesh)
    frozen = jax.tree.map(jax.device_put, given.frozen, shardings)
    rest = jax.device_put(given._replace(frozen={}), replicated(mesh))
    found = jax.jit(losses)(
        jax.tree.map(jax.device_put, factors, shard_params(factors, mesh)),
        rest._replace(frozen=frozen),
        jax.device_put(arrays(batch), batch_sharding(mesh)),
        jax.device_put(EXAMPLES, batch_sharding(mesh)),
        KEY,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_the_student_learns(config, base, given, batch):
    mesh = one_device()
    take_step = compiled_step(config, base.networks, mesh)
    init = jax.jit(lambda key: init_factors(base.networks.unet, TAUGHT.rank, key))
    state = init_state(config.optimizer, init(jax.random.key(0)))
    losses = []
    for _ in range(12):
        # The step's number chooses its noise.
        state = state._replace(step=state.step * 0)
        state, metrics = take_step(state, given, arrays(batch), np.uint32(0))
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.7 * losses[0]
    assert "grad_norm_lora" in metrics
