"""Counts compilations: each backend compilation is an event, even if a cache answers it."""

import re

import jax
import numpy as np
import pytest

from instantid_jax import InstantIDPipeline
from instantid_jax.pipeline import step
from instantid_jax.request import Request
from tests.pipeline.small_model import SIZE, person, unit_noise

compiled: list[str] = []


def listen(event: str, duration: float, **about) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled.append(str(about.get("fun_name")))


# JAX cannot take a listener back, so there is one, for good.
jax.monitoring.register_event_duration_secs_listener(listen)


@pytest.fixture
def compiled_by():
    def count(call, **arguments) -> list[str]:
        compiled.clear()
        call(**arguments)
        return list(compiled)

    return count


@pytest.fixture(scope="module")
def warm(sample):
    """A pipeline that made one picture; the call to make more."""
    sample(output_type="pil")
    return sample


EMBEDS = {
    "prompt_embeds": np.zeros((1, 77, 96), np.float16),
    "pooled_prompt_embeds": np.zeros((1, 64), np.float64),
}
CHANGES = {
    "nothing": {},
    "prompt": {"prompt": "another prompt, a longer one"},
    "weights": {"prompt": "a (man:1.3) in [the] rain", "negative_prompt": "(blurry:0.5)"},
    "other weights": {"prompt": "(a man:0.2) (in) the rain", "prompt_2": "((rain:-1))"},
    "literal brackets": {"prompt": "a (man:1.3)", "prompt_weighting": False},
    "prompt of the second encoder": {"prompt_2": "snow"},
    "negative prompt": {"negative_prompt": "blurry"},
    "encoded prompt": {"prompt": None} | EMBEDS,
    "face": {"face": person(1)},
    "face embedding": {"face": None, "image_embeds": np.ones(512), "kps": np.ones((5, 2))},
    "mask": {"control_mask": np.eye(*SIZE, dtype=np.uint8)},
    "keypoints drawn": {"image": np.zeros((*SIZE, 3), np.uint8)},
    "pose": {"pose": person(3)},
    "seed": {"seed": 2**32 - 1},
    "latents": {"latents": unit_noise(1)},
    "ip_adapter_scale": {"ip_adapter_scale": 1},
    "strengths of blocks": {"ip_adapter_scale": {"up": {"block_0": [0, 1]}}},
    "window of the adapter": {"ip_adapter_start": 0.3, "ip_adapter_end": 0.9},
    "noise of nobody": {"negative_id_noise": 0.35},
    "strength": {"controlnet_conditioning_scale": 0.3},
    "guidance_scale": {"guidance_scale": 7},
    "guidance_rescale": {"guidance_rescale": 0.7, "guidance_rescale_v": 0.5},
    "guidance_interval": {"guidance_interval": (0.28, 5.42)},
    "projected guidance": {"apg_eta": 0, "apg_threshold": 15},
    "mimic_scale": {"mimic_scale": 2},
    "window": {"control_guidance_start": 0.3, "control_guidance_end": 0.9},
    "guess mode": {"guess_mode": True},
    "fewer steps": {"num_inference_steps": 1},
    "more steps": {"num_inference_steps": 5},
    "sampler of the same order": {"scheduler": "ddim"},
    "callback": {"callback_on_step_end": lambda pipe, step, timestep, given: given},
    "micro-conditioning": {
        "original_size": (300, 500),
        "crops_coords_top_left": (4, 8),
        "target_size": (200, 200),
        "negative_original_size": (100, 100),
        "negative_target_size": (100, 100),
    },
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_compiles_nothing(warm, compiled_by, change):
    assert compiled_by(warm, **{"output_type": "pil"} | CHANGES[change]) == []


def test_a_batch_of_other_scales_samplers_and_steps_compiles_nothing(pipe, warm, compiled_by):
    def run(**changes):
        height, width = SIZE
        common = {"height": height, "width": width, "face": person(0), "guidance_scale": 5}
        requests = [
            Request("a", **common | {name: values[i] for name, values in changes.items()})
            for i in range(2)
        ]
        return pipe.run(requests)

    run(scheduler=["dpmpp_2m", "euler"])
    changed = {
        "scheduler": ["ddim", "dpmpp_2m_karras"],
        "guidance_scale": [7, 1],
        "ip_adapter_scale": [0.1, 0.9],
        "num_inference_steps": [3, 5],
        "guess_mode": [True, False],
    }
    assert compiled_by(run, **changed) == []


def test_a_first_call_compiles_whole_programs_alone(sample, compiled_by):
    """No operation runs outside them, where JAX would compile a program for each of its shapes."""
    first = compiled_by(sample, scheduler="unipc", num_images_per_prompt=7, output_type="pil")
    # Counted at least: some may have been compiled by tests before.
    assert {"jit(prepare)", "jit(begin)", "jit(denoise)", "jit(decode)"} <= set(first)
    programs = ("encode_text", "encode_id", "prepare", "draw_noise", "begin", "denoise", "decode")
    assert set(first) <= {f"jit({name})" for name in programs}
    assert len(first) == len(set(first))


def test_float_pictures_compile_the_decoding_alone(warm, compiled_by):
    assert set(compiled_by(warm, output_type="np")) <= {"jit(decode)"}
    assert compiled_by(warm, output_type="np", seed=3) == []


def test_scales_of_perturbed_guidance_and_freeu_compile_nothing(sample, compiled_by):
    sample(pag_scale=3, freeu=(0.9, 0.2, 1.3, 1.4))
    changed = {"pag_scale": 1, "pag_adaptive_scale": 0.001, "freeu": (1, 1, 1.1, 1.2)}
    assert compiled_by(sample, **changed) == []
    # By another name, the same layers.
    assert compiled_by(sample, **changed, pag_applied_layers="mid_block") == []


def test_stochastic_steps_compile_once(sample, compiled_by):
    sample(scheduler="euler_ancestral")
    changed = {"scheduler": "euler_ancestral", "num_inference_steps": 5, "seed": 3}
    assert compiled_by(sample, **changed) == []


def test_the_same_model_loaded_again_compiles_nothing(warm, compiled_by, folder):
    again = InstantIDPipeline.load(sdxl=folder, instantid=folder)
    assert compiled_by(warm, pipe=again, output_type="pil") == []


def test_a_step_computes_nothing_that_no_step_changes(pipe, sample, monkeypatch):
    """Read off the compiled program: it takes none of the weights that only such things need."""
    calls = []
    denoise = step.denoise
    monkeypatch.setattr(
        step, "denoise", lambda *args: calls.append(denoise.lower(*args)) or denoise(*args)
    )
    sample(num_inference_steps=1)
    program = calls[0].compile().as_text()
    # Parameters are named as the arguments of the function: params['unet']['conv_in.kernel'].
    names = re.findall(r'parameter\(.*op_name="(params\[.*?)"', program)
    taken = {re.findall(r"'(.*?)'", name.replace("\\", ""))[-1] for name in names}
    constant = r"attn2\.to_[kv](_ip)?\.|^add_embedding\.|^controlnet_cond_embedding\."
    assert not [name for name in taken if re.search(constant, name)]
    everything = {
        name
        for network in (pipe.model.networks.unet, *pipe.model.networks.controlnets)
        for name in network.shapes
    }
    assert {name for name in everything if not re.search(constant, name)} == taken
