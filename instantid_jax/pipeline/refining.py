"""SDXL's refiner continues what the base networks began.

Source: Podell et al. 2023 (SDXL), section 2.5; diffusers' StableDiffusionXLPipeline with
`denoising_end`, then its StableDiffusionXLImg2ImgPipeline with `denoising_start`.
"""

import jax
import numpy as np

from instantid_jax.pipeline import programs, step
from instantid_jax.pipeline.conditions.refiner import RefinerInputs
from instantid_jax.pipeline.conditions.text import States
from instantid_jax.pipeline.loop import Part, draw, run_steps
from instantid_jax.pipeline.model import LoadedModel
from instantid_jax.pipeline.observer import Observer
from instantid_jax.pipeline.plan import Plan


def refine(
    model: LoadedModel,
    plan: Plan,
    texts: tuple[States, States | None],
    known: step.Known | None,
    latents: jax.Array,
    observer: Observer,
) -> jax.Array:
    """Runs the refiner's steps, as a sampler that begins anew: no noise, no earlier outputs.

    Args:
      texts: positive and negative prompts, as both text encoders encode them.
      known: what the base networks' steps keep of images.
      latents: [B, H, W, C] float32, where these ended.
    Returns:
      The same, denoised.
    Raises:
      InputError: naming the first seed and step whose latents are not finite.
    """
    refiner, network = plan.refiner, model.refiner
    assert refiner is not None and network is not None, "the plan has no refiner"
    with model.resident("refiner"), model.on_devices(model.dtype):
        params = model.refiner_params
        conditions = programs.prepare_refiner(
            network, plan.repeats, params["unet"], *texts, refiner.time_ids
        )
        state = step.begin(refiner.program.rule, latents, np.ones(len(latents), np.float32))
        part = Part(
            *(refiner.program, params, conditions),
            # It takes no mask.
            known=None if known is None else known._replace(shown=None),
            timesteps=refiner.samplers.timesteps,
            inputs=lambda i: _step_inputs(plan, refiner, i),
            before=len(plan.samplers),
            total=len(plan.samplers) + len(refiner.samplers),
        )
        return run_steps(model, part, state, plan.seeds, observer)["sample"]


def _step_inputs(plan: Plan, refiner: RefinerInputs, i: int) -> step.StepInputs[np.ndarray]:
    timesteps = np.tile(refiner.samplers.timesteps[i], refiner.program.halves)
    stochastic, keeps = refiner.program.rule.stochastic, refiner.program.keeps
    return step.StepInputs(
        row=refiner.samplers.row(i),
        timesteps=timesteps,
        guidance=refiner.guidance.row(i),
        residual_scales=np.zeros((0, 0, len(timesteps)), np.float32),
        adapter_scales=np.ones(len(timesteps), np.float32),
        noise=draw(plan, refiner.before + i) if stochastic else None,
        kept=refiner.kept.row(i) if keeps else None,
    )
