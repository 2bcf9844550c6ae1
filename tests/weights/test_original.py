"""Single files in the original layout: the same tensors as diffusers' own conversion takes."""

import re

import pytest
import torch
from diffusers.loaders import single_file_utils

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network
from instantid_jax.weights.names import to_jax, torch_name, vae_names
from instantid_jax.weights.original import (
    PREFIXES,
    is_original,
    prediction_settings,
    prefix_of,
    select,
    unet_name,
    vae_name,
)
from tests.parity import reference
from tests.parity.bridge import as_numpy, as_tensors
from tests.parity.test_full_size import NETWORKS as FULL_SIZE
from tests.parity.test_full_size import UNET, VAE

COMPONENTS = ["unet", "vae", "text_encoder", "text_encoder_2"]


class Small:
    """Four small torch networks, and our shapes and configurations of them."""

    def __init__(self):
        self.unet, self.vae = reference.make_unet(1), reference.make_vae(2)
        self.controlnet = reference.make_controlnet(5)
        self.text_encoder = reference.make_text_encoder(3, with_projection=False)
        self.text_encoder_2 = reference.make_text_encoder(4, with_projection=True)
        networks = {
            "unet": Network(UNet2DConditionModel, UNetConfig.from_json(dict(self.unet.config))),
            "vae": Network(AutoencoderKL, VAEConfig.from_json(dict(self.vae.config))),
            "controlnet": Network(
                ControlNetModel, ControlNetConfig.from_json(dict(self.controlnet.config))
            ),
        }
        for name in ("text_encoder", "text_encoder_2"):
            model = getattr(self, name)
            settings = model.config.to_dict() | {"architectures": [type(model).__name__]}
            networks[name] = Network(CLIPTextModel, CLIPTextConfig.from_json(settings))
        self.configs = {name: network.config for name, network in networks.items()}
        self.shapes = {
            name: {key: leaf for key, leaf in network.shapes.items() if "_ip." not in key}
            for name, network in networks.items()
        }

    def state(self, name):
        state = getattr(self, name).state_dict()
        return reference.with_text_model_prefix(state) if "text" in name else state

    def original(self):
        return reference.original_state(self.unet, self.vae, self.text_encoder, self.text_encoder_2)

    def original_controlnet(self, prefix):
        config = self.controlnet.config
        original = reference.controlnet_original(
            self.controlnet.state_dict(), config.layers_per_block, len(config.block_out_channels)
        )
        return {prefix + name: tensor for name, tensor in original.items()}

    def select(self, name, tensors, prefix=None):
        selected = select(name, tensors, self.shapes[name], self.configs[name], prefix)
        # The VAE's attention is made of 1x1 convolutions in these files.
        return vae_names(selected) if name == "vae" else selected


@pytest.fixture(scope="module")
def small():
    return Small()


def assert_same_bytes(tensors, state):
    assert tensors.keys() == state.keys()
    for name, tensor in state.items():
        ours, theirs = tensors[name], as_numpy(tensor)
        read = ours.read()
        assert (read.shape, read.dtype) == (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert read.tobytes() == theirs.tobytes(), name


# -- the tensors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", COMPONENTS)
def test_single_file_gives_the_tensors_of_the_folder(small, name, dtype):
    original = {key: tensor.to(dtype) for key, tensor in small.original().items()}
    state = {key: tensor.to(dtype) for key, tensor in small.state(name).items()}
    selected = small.select(name, as_tensors(original))
    assert_same_bytes(selected, state)
    to_jax(selected, small.shapes[name], name)


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder_2"])
def test_single_file_gives_the_tensors_of_diffusers(small, name):
    original = small.original()
    theirs = {
        "unet": lambda m: single_file_utils.convert_ldm_unet_checkpoint(original, m.config),
        "vae": lambda m: single_file_utils.convert_ldm_vae_checkpoint(original, m.config),
        "text_encoder_2": lambda m: single_file_utils.convert_open_clip_checkpoint(
            m, original, PREFIXES["text_encoder_2"]
        ),
    }[name](getattr(small, name))
    assert_same_bytes(small.select(name, as_tensors(original)), theirs)


@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_controlnet_gives_the_tensors_of_diffusers(small, prefix):
    state, original = small.state("controlnet"), small.original_controlnet(prefix)
    assert prefix_of("controlnet", original) == prefix
    assert_same_bytes(small.select("controlnet", as_tensors(original), prefix), state)
    theirs = single_file_utils.convert_controlnet_checkpoint(original, small.controlnet.config)
    # diffusers leaves out what is SDXL's own.
    assert {name for name in state if name not in theirs} == {
        f"add_embedding.linear_{i}.{leaf}" for i in (1, 2) for leaf in ("weight", "bias")
    }
    for name, tensor in theirs.items():
        assert torch.equal(tensor, state[name]), name


def test_controlnet_of_another_kind_is_refused(small):
    """No tensor of a ControlNet is dropped, unlike the training state of whole checkpoints."""
    original = small.original_controlnet("control_model.")
    original |= {"control_model.task_embedding": torch.zeros(6, 320), "global_step": torch.zeros(1)}
    selected = small.select("controlnet", as_tensors(original))
    with pytest.raises(InputError, match=r"the file does not fit: 1 unexpected: task_embedding$"):
        to_jax(selected, small.shapes["controlnet"], "the file")


def test_prefixes_of_networks_by_themselves(small):
    original = small.original()
    for name in COMPONENTS:
        assert prefix_of(name, original) == PREFIXES[name]
        assert prefix_of(name, small.state(name)) is None
    for name, prefix in (("unet", ""), ("vae", ""), ("vae", "vae.")):
        alone = {
            key.replace(PREFIXES[name], prefix): tensor
            for key, tensor in original.items()
            if key.startswith(PREFIXES[name])
        }
        assert prefix_of(name, alone) == prefix
        assert_same_bytes(small.select(name, as_tensors(alone), prefix), small.state(name))
        assert prefix_of("controlnet", alone) is None
    assert prefix_of("unet", small.original_controlnet("")) is None


def test_text_encoder_without_its_inner_level(small):
    """Some trainers write `conditioner.embedders.0.transformer.encoder...`."""
    original = {
        key.replace("transformer.text_model.", "transformer."): tensor
        for key, tensor in small.original().items()
    }
    assert original.keys() != small.original().keys()
    selected = small.select("text_encoder", as_tensors(original))
    assert_same_bytes(selected, small.state("text_encoder"))


@pytest.mark.parametrize("name", COMPONENTS)
def test_other_tensors_are_left_out(small, name):
    original = small.original()
    extras = {
        "model_ema.diffusion_modeltime_embed0weight": torch.zeros(3),
        "global_step": torch.zeros(1),
        f"{PREFIXES[name]}unknown.weight": torch.zeros(3),
    }
    assert_same_bytes(small.select(name, as_tensors(original | extras)), small.state(name))


@pytest.mark.parametrize(
    ("name", "missing", "shown"),
    [
        ("unet", "middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
        ("vae", "decoder.up.3.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"),
        (
            "text_encoder",
            "text_model.final_layer_norm.bias",
            "text_model.final_layer_norm.bias",
        ),
        (
            "text_encoder_2",
            "transformer.resblocks.0.attn.in_proj_weight",
            "text_model.encoder.layers.0.self_attn.q_proj.weight",
        ),
        ("text_encoder_2", "text_projection", "text_projection.weight"),
    ],
)
def test_a_missing_tensor_is_reported_by_diffusers_name(small, name, missing, shown):
    tensors = as_tensors(small.original())
    del tensors[PREFIXES[name] + missing]
    with pytest.raises(InputError, match=rf"missing: .*{re.escape(shown)}"):
        to_jax(small.select(name, tensors), small.shapes[name], "the file")


def test_only_whole_checkpoints_are_taken_for_original(small):
    assert is_original(small.original())
    for name in COMPONENTS:
        assert not is_original(small.state(name))
    assert not is_original({"first_stage_model.decoder.conv_in.weight": None})


# -- names at full size ---------------------------------------------------------------------------


def stamped(names, shape=()):
    """A tensor for each name that tells which it is."""
    return {name: torch.full(shape, float(i)) for i, name in enumerate(names)}


def torch_names(component):
    network, _, _ = FULL_SIZE[component]
    return [
        torch_name(name, len(leaf.shape))[0]
        for name, leaf in network.shapes.items()
        if "_ip." not in name
    ]


def test_unet_names_of_sdxl_are_those_that_diffusers_reads():
    names = torch_names("unet")
    original = [PREFIXES["unet"] + unet_name(name, UNetConfig()) for name in names]
    assert len(set(original)) == len(names) == 1680
    config = {"layers_per_block": 2, **UNET}
    theirs = single_file_utils.convert_ldm_unet_checkpoint(stamped(original), config)
    assert {name: tensor.item() for name, tensor in theirs.items()} == {
        name: float(i) for i, name in enumerate(names)
    }


def test_vae_names_of_sdxl_are_those_that_diffusers_reads():
    names = torch_names("vae")
    original = [PREFIXES["vae"] + vae_name(name, VAEConfig()) for name in names]
    assert len(set(original)) == len(names) == 248
    theirs = single_file_utils.convert_ldm_vae_checkpoint(stamped(original), VAE)
    assert {name: tensor.item() for name, tensor in theirs.items()} == {
        name: float(i) for i, name in enumerate(names)
    }


def test_text_encoder_2_of_sdxl_is_read_as_by_diffusers():
    """All 32 layers, with projections of one row."""
    names = torch_names("text_encoder_2")
    assert len(names) == 517
    stamps = {
        name: tensor if name.endswith("bias") else tensor[None]
        for name, tensor in stamped(names, (1,)).items()
    }
    prefix = PREFIXES["text_encoder_2"]
    original = {
        prefix + name: tensor for name, tensor in reference.openclip_original(stamps).items()
    }
    theirs = single_file_utils.convert_open_clip_checkpoint(None, original, prefix)
    network, _, _ = FULL_SIZE["text_encoder_2"]
    ours = select("text_encoder_2", as_tensors(original), network.shapes, network.config)
    assert_same_bytes(ours, theirs)
    assert_same_bytes(ours, stamps)


# -- the noise schedule ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markers", "metadata", "settings"),
    [
        ([], {}, {"prediction_type": "epsilon"}),
        (["v_pred"], {}, {"prediction_type": "v_prediction"}),
        (
            ["v_pred", "ztsnr"],
            {},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ),
        ([], {"modelspec.prediction_type": "v"}, {"prediction_type": "v_prediction"}),
        ([], {"modelspec.prediction_type": "epsilon"}, {"prediction_type": "epsilon"}),
        ([], {"modelspec.title": "v_pred"}, {"prediction_type": "epsilon"}),
    ],
)
def test_markers_tell_the_prediction(markers, metadata, settings):
    tensors = as_tensors(dict.fromkeys(markers, torch.empty(0)))
    assert prediction_settings(tensors, metadata) == settings


@pytest.mark.parametrize("marker", ["edm_mean", "edm_vpred.sigma_max"])
def test_edm_models_are_refused(marker):
    with pytest.raises(InputError, match=f"marked {re.escape(marker)}: EDM"):
        prediction_settings(as_tensors({marker: torch.zeros(1)}), {})
