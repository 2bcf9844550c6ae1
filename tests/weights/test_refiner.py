"""SDXL's refiner in folders and single files."""

import math
import shutil

import jax
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel as TorchUNet
from diffusers.loaders import single_file_utils
from safetensors.numpy import load_file, save_file

from instantid_jax.checkpoint import open_model, save_model
from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.models.unet import RefinerUNet, UNetConfig
from instantid_jax.params import Network
from instantid_jax.pipeline.sources import Sources
from instantid_jax.weights import sdxl_base
from instantid_jax.weights.layouts import find_refiner
from instantid_jax.weights.original import PREFIXES, select
from tests.parity import reference
from tests.parity.bridge import as_tensors
from tests.pipeline import small_model, small_refiner
from tests.weights.sparse import write_sparse

# stabilityai/stable-diffusion-xl-refiner-1.0's unet/config.json, as far as it tells sizes.
PUBLISHED = {
    "attention_head_dim": [6, 12, 24, 24],
    "block_out_channels": [384, 768, 1536, 1536],
    "cross_attention_dim": 1280,
    "down_block_types": [
        "DownBlock2D",
        "CrossAttnDownBlock2D",
        "CrossAttnDownBlock2D",
        "DownBlock2D",
    ],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2560,
}


@pytest.fixture(scope="module")
def full_size():
    """Names and shapes of the published UNet, in diffusers' layout."""
    with torch.device("meta"):
        state = TorchUNet(**PUBLISHED).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return small_model.write(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / small_refiner.write(tmp_path / "refiner")


def find(base, refiner, **options):
    return Sources(sdxl=base, instantid=base, refiner=str(refiner), **options).find()


def test_single_files_and_folders_of_full_size(full_size, tmp_path):
    """A whole checkpoint in the original layout, and its UNet alone in either layout."""
    names = reference.unet_original_names(list(full_size), 2, 4)
    original = {PREFIXES["refiner"] + names[name]: shape for name, shape in full_size.items()}
    more = {
        "conditioner.embedders.0.model.token_embedding.weight": (49408, 1280),
        "first_stage_model.encoder.conv_in.weight": (128, 3, 3, 3),
    }
    wanted = network("refiner", sdxl_base.SETTINGS["refiner"])
    assert wanted == network("refiner", PUBLISHED)
    count = sum(math.prod(shape) for shape in full_size.values())
    for shapes in (original | more, original, full_size):
        path = write_sparse(tmp_path / "refiner.safetensors", shapes)
        found = find_refiner(str(path))
        assert found.network == wanted
        assert sum(leaf.size for leaf in wanted.shapes.values()) == count
    with pytest.raises(
        InputError, match=r"SDXL refiner UNet .*: expected an SDXL UNet; give it as"
    ):
        Sources(sdxl=None, unet=str(path)).find()


def test_the_tensors_are_those_of_diffusers(full_size):
    unet = reference.make_unet(3, **reference.REFINER)
    state = unet.state_dict()
    names = reference.unet_original_names(list(state), 1, 4)
    original = {PREFIXES["refiner"] + names[name]: tensor for name, tensor in state.items()}
    net = Network(RefinerUNet, UNetConfig.from_json(dict(unet.config)))
    ours = select("refiner", as_tensors(original), net.shapes, net.config)
    theirs = single_file_utils.convert_ldm_unet_checkpoint(original, unet.config)
    assert ours.keys() == theirs.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(ours[name].read(), tensor.numpy())


@pytest.mark.parametrize("place", ["", "unet", "unet/diffusion_pytorch_model.safetensors"])
def test_folders_files_and_variants(base, folder, place):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    model = find(base, folder / place)
    refiner = model.components["refiner"]
    assert refiner.network == network("refiner", small_refiner.settings())
    stored, params = load_file(weights), refiner.load(None)
    np.testing.assert_array_equal(params["conv_in.bias"], stored["conv_in.bias"])
    half = {name: value.astype(np.float16) for name, value in stored.items()}
    save_file(half, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    if place != "unet/diffusion_pytorch_model.safetensors":
        found = find_refiner(str(folder / place), variant="fp16")
        assert found.source.endswith(".fp16.safetensors")


def test_a_converted_model_keeps_it(base, folder, tmp_path):
    model = find(base, folder)
    list(save_model(model, tmp_path / "model"))
    again = open_model(tmp_path / "model")
    assert again.components["refiner"].network == model.components["refiner"].network
    before, after = (each.components["refiner"].load(None) for each in (model, again))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    # Another takes its place.
    Sources(model=str(tmp_path / "model"), refiner=str(folder)).find()


def test_what_is_no_refiner_is_refused(base, folder, tmp_path):
    with pytest.raises(InputError, match=r"refiner: cross_attention_dim=96, expected 64 \(it sees"):
        find(base, f"{base}/unet")
    wide = small_refiner.write(tmp_path / "wide", projection_class_embeddings_input_dim=160)
    with pytest.raises(InputError, match=r"refiner: projection_class_embeddings_input_dim=160"):
        find(base, wide)
    with pytest.raises(
        InputError, match=r"is an InstantID adapter: expected an SDXL refiner; give"
    ):
        find(base, f"{base}/ip-adapter.safetensors")
    with pytest.raises(InputError, match=r"no such folder here"):
        find(base, tmp_path / "none")
    shutil.rmtree(folder / "unet")
    (folder / "readme.txt").write_text("x")
    with pytest.raises(InputError, match=r"no config.json; expected a diffusers model"):
        find(base, folder)
