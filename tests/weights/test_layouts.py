"""Finding models in folders and single files, and reading their weights."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from instantid_jax.checkpoint import open_model, save_model
from instantid_jax.components import component_shapes
from instantid_jax.errors import InputError
from instantid_jax.pipeline.sources import Sources
from instantid_jax.weights import layouts, parts, reading, sdxl_base
from instantid_jax.weights.layouts import find_network, find_vae
from instantid_jax.weights.original import unet_name
from instantid_jax.weights.reading import read_params
from instantid_jax.weights.tensors import LazyTensor
from tests.convert.published import UNET, save_weights, write_published
from tests.parity.test_full_size import NETWORKS
from tests.weights.sparse import sdxl_shapes, write_sparse

PARTS = ("unet", "vae", "text_encoder", "text_encoder_2", "image_proj", "ip_adapter", "controlnet")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """SDXL and InstantID, tiny, in one folder."""
    folder = tmp_path_factory.mktemp("sound") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


@pytest.fixture
def folder(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "weights")


def find(folder, **options):
    return Sources(sdxl=str(folder), instantid=str(folder), **options).find()


def set_json(path, **settings):
    old = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(old | settings))


# -- folders --------------------------------------------------------------------------------------


def test_parts_are_found_and_read_under_our_names(sound):
    model = find(sound)
    assert tuple(model.components) == PARTS
    for name, component in model.components.items():
        params = component.load(None)
        wanted = component_shapes(name, component.network)
        assert {n: p.shape for n, p in params.items()} == {n: s.shape for n, s in wanted.items()}
        assert {p.dtype for p in params.values()} == {np.dtype("float16")}
    stored = load_file(sound / "unet" / "diffusion_pytorch_model.safetensors")
    unet = model.components["unet"].load(None)
    assert np.array_equal(unet["conv_in.kernel"], stored["conv_in.weight"].transpose(2, 3, 1, 0))
    adapter = load_file(sound / "ip-adapter.safetensors")
    kernel = model.components["ip_adapter"].load(None)[
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_k_ip.kernel"
    ]
    # Down one layer, up two, and the middle's last: the fourth pair has number 7.
    assert np.array_equal(kernel, adapter["ip_adapter.7.to_k_ip.weight"].T)


def test_settings_of_the_pipeline(folder):
    model = find(folder)
    assert model.scheduler == sdxl_base.SCHEDULER
    assert model.tokenizers == (folder / "tokenizer", folder / "tokenizer_2")
    assert model.force_zeros_for_empty_prompt is True
    set_json(folder / "model_index.json", force_zeros_for_empty_prompt=False)
    assert find(folder).force_zeros_for_empty_prompt is False


def test_defaults_of_a_models_folder(folder, tmp_path):
    assert (find(folder).guidance_scale, find(folder).sides) == (None, None)
    set_json(folder / "defaults.json", guidance_scale=2)
    assert (find(folder).guidance_scale, find(folder).sides) == (2.0, None)
    set_json(folder / "defaults.json", sides=[96, 192])
    assert (find(folder).guidance_scale, find(folder).sides) == (2.0, (96, 192))
    list(save_model(find(folder), tmp_path / "model"))
    converted = open_model(tmp_path / "model")
    assert (converted.guidance_scale, converted.sides) == (2.0, (96, 192))


@pytest.mark.parametrize("sides", [96, [96], "96", [96, 100], [96, "192"], [192, 96]])
def test_damaged_defaults_are_refused(folder, sides):
    set_json(folder / "defaults.json", sides=sides)
    with pytest.raises(InputError, match="sides"):
        find(folder)


def test_head_size_comes_from_the_settings_next_to_the_adapter(folder):
    assert find(folder).components["image_proj"].network.config.dim_head == 64
    set_json(folder / "config.json", dim_head=32)
    assert find(folder).components["image_proj"].network.config.dim_head == 32
    set_json(folder / "config.json", dim_head=48)
    with pytest.raises(InputError, match="64 must be a multiple of its head size 48"):
        find(folder)


def test_further_controlnets_and_another_vae(folder, tmp_path):
    other = tmp_path / "other"
    vae = {"_class_name": "AutoencoderKL", "block_out_channels": [4] * 4, "norm_num_groups": 2}
    vae |= {"layers_per_block": 1}
    write_published(other, unet=UNET, controlnet=UNET, dtype="float32", vae=vae)
    nets = [str(folder / "ControlNetModel"), str(other / "ControlNetModel")]
    model = find(folder, controlnets=nets, vae=str(other / "vae"))
    assert model.controlnets == ["controlnet", "controlnets.0", "controlnets.1"]
    assert [model.components[n].load(None)["conv_in.bias"].dtype for n in model.controlnets] == [
        *("float16", "float16", "float32")
    ]
    assert model.components["vae"].network.config.block_out_channels == (4,) * 4


def test_shards_and_variants(folder, tmp_path):
    """`variant` holds for SDXL; what is published in one form alone is taken in that."""
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        (weights,) = (folder / name).glob("*.safetensors")
        tensors = load_file(weights)
        weights.unlink()
        stem = weights.name.removesuffix(".safetensors")
        if name == "unet":
            save_weights(folder / name, stem, tensors, shards=3)
        else:
            save_file(tensors, folder / name / f"{stem}.safetensors")
        save_file(
            {n: t * 0 for n, t in tensors.items()}, folder / name / f"{stem}.fp16.safetensors"
        )
    whole, half = find(folder), find(folder, variant="fp16")
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for model, zero in ((whole, False), (half, True)):
            params = model.components[name].load(None)
            assert all((np.asarray(p) == 0).all() for p in params.values()) is zero
    sources = [component.source for component in half.components.values()]
    assert [".fp16." in source for source in sources] == [True] * 4 + [False] * 3
    with pytest.raises(InputError, match=r"no weights of the variant bf16 in any part; there"):
        find(folder, variant="bf16")


def test_sdxls_vae_alone(folder, sound, caplog):
    for name in ("unet", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / name)
    vae, whole = find_vae(str(folder)), find(sound).components["vae"]
    assert vae.network == whole.network
    for name, value in vae.load(None).items():
        assert np.array_equal(value, whole.load(None)[name])
    with pytest.raises(InputError, match=r"expected an SDXL checkpoint in the original layout"):
        find_vae(str(folder / "ip-adapter.safetensors"))
    assert find_vae(str(folder), variant="fp16").source == vae.source
    assert "no weights of the variant fp16 in vae/" in caplog.text


def test_network_alone(folder):
    assert find_network(str(folder / "unet"), "unet").network.config.cross_attention_dim == 96
    with pytest.raises(InputError, match=r"ControlNet .*: expected an SDXL UNet"):
        find_network(str(folder / "ControlNetModel"), "unet")


# -- text encoders ---------------------------------------------------------------------------------


def test_what_text_encoders_do_not_need_is_left_out(sound, folder):
    file = folder / "text_encoder" / "model.safetensors"
    plain = find(sound).components["text_encoder"].load(None)
    more = {"text_projection.weight": np.ones((8, 32), np.float16), "logit_scale": np.float16(4.6)}
    save_file(load_file(file) | {n: np.asarray(v) for n, v in more.items()}, file, {"format": "pt"})
    for architecture in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        set_json(file.with_name("config.json"), architectures=[architecture])
        found = find(folder).components["text_encoder"].load(None)
        assert found.keys() == plain.keys()
    second = folder / "text_encoder_2" / "model.safetensors"
    save_file(
        load_file(second) | {"logit_scale": np.asarray(np.float16(4.6))}, second, {"format": "pt"}
    )
    find(folder)


# -- another UNet ---------------------------------------------------------------------------------


def test_a_unet_by_itself_replaces_sdxls(sound, folder, tmp_path):
    stored = load_file(sound / "unet" / "diffusion_pytorch_model.safetensors")
    other = {name: (value + 1).astype(np.float16) for name, value in stored.items()}
    save_file(other, tmp_path / "four_steps.safetensors", {"format": "pt"})
    shutil.copytree(sound / "unet", tmp_path / "unet")
    save_file(other, tmp_path / "unet" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    config = find(folder).components["unet"].network.config
    original_names = {
        f"model.diffusion_model.{unet_name(name, config)}": value for name, value in other.items()
    }
    save_file(original_names, tmp_path / "original.safetensors", {"format": "pt"})
    for source in ("four_steps.safetensors", "unet", "original.safetensors"):
        model = find(folder, unet=str(tmp_path / source))
        unet = model.components["unet"].load(None)
        np.testing.assert_array_equal(unet["conv_in.bias"], other["conv_in.bias"])
        assert unet.keys() == find(folder).components["unet"].load(None).keys()


def test_what_is_no_unet_of_these_sizes_is_refused(sound, folder, tmp_path):
    adapter = str(sound / "ip-adapter.safetensors")
    with pytest.raises(InputError, match="is an InstantID adapter: expected an SDXL UNet"):
        find(folder, unet=adapter)
    with pytest.raises(InputError, match="no such folder here"):
        find(folder, unet=str(tmp_path / "none.safetensors"))
    write_published(
        tmp_path / "wide",
        unet=UNET | {"block_out_channels": [32, 64]},
        controlnet=UNET,
        dtype="float16",
    )
    with pytest.raises(InputError, match="its UNet has other sizes than the model's"):
        find(folder, unet=str(tmp_path / "wide" / "unet"))


# -- single files ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """Writes SDXL at full size as one file of zeros; returns its path."""
    shapes, folder = sdxl_shapes(), tmp_path_factory.mktemp("single")

    def write(markers=(), without=(), metadata=None):
        chosen = {name: shape for name, shape in shapes.items() if name not in without}
        chosen |= dict.fromkeys(markers, (0,))
        return write_sparse(folder / "sdxl.safetensors", chosen, metadata)

    return write


@pytest.fixture(scope="module")
def full_networks():
    """Reuses the full-size networks, whose shapes are slow to trace."""
    from instantid_jax.components import network

    made = {}

    def cached(name, settings):
        key = name, json.dumps(settings, sort_keys=True, default=list)
        return made.setdefault(key, network(name, settings))

    return cached


@pytest.fixture
def found(single, sound, full_networks, monkeypatch):
    monkeypatch.setattr(parts, "network", full_networks)

    def call(**options):
        return layouts.find_sdxl(str(single(**options)), tokenizers=str(sound))

    return call


def test_single_file_has_all_parts_of_sdxl(found, sound):
    base = found()
    found_parts = base.components
    assert tuple(found_parts) == ("unet", "vae", "text_encoder", "text_encoder_2")
    assert all(part.network == NETWORKS[name][0] for name, part in found_parts.items())
    assert base.scheduler == sdxl_base.SCHEDULER
    assert base.tokenizers == (sound / "tokenizer", sound / "tokenizer_2")
    assert base.force_zeros_for_empty_prompt is True
    vae = found_parts["vae"].load(jnp.bfloat16)
    assert {p.dtype for p in vae.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_single_file_has_a_vae_alone(single, full_networks, monkeypatch):
    monkeypatch.setattr(parts, "network", full_networks)
    assert find_vae(str(single())).network == NETWORKS["vae"][0]


def test_single_file_without_a_vae(single, sound, full_networks, monkeypatch):
    monkeypatch.setattr(parts, "network", full_networks)
    lost = [name for name in sdxl_shapes() if name.startswith("first_stage_model.")]
    path = str(single(without=lost))
    with pytest.raises(InputError, match=r"sdxl\.safetensors has no VAE: give one as vae="):
        layouts.find_sdxl(path, tokenizers=str(sound))
    with pytest.raises(InputError, match=r"sdxl\.safetensors has no VAE: give one as vae="):
        find_vae(path)
    base = layouts.find_sdxl(path, tokenizers=str(sound), vae=str(sound / "vae"))
    assert tuple(base.components) == layouts.SDXL_PARTS
    assert base.components["vae"].network == find_vae(str(sound)).network


def test_variant_is_taken_where_there_is_one(folder, caplog):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    half = shutil.copy(file, file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    model = find(folder, variant="fp16")
    assert model.components["unet"].source == str(half)
    assert ".fp16." not in model.components["vae"].source
    lacking = "no weights of the variant fp16 in vae/, text_encoder/, text_encoder_2/; taking those"
    assert lacking in caplog.text


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({"markers": ["v_pred"]}, {"prediction_type": "v_prediction"}),
        (
            {"markers": ["v_pred", "ztsnr"]},
            {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ),
        ({"metadata": {"modelspec.prediction_type": "v"}}, {"prediction_type": "v_prediction"}),
    ],
)
def test_markers_of_a_single_file(found, options, settings):
    assert found(**options).scheduler == sdxl_base.SCHEDULER | settings


def test_single_file_that_lacks_a_tensor(found):
    lost = "model.diffusion_model.input_blocks.4.1.proj_in.bias"
    with pytest.raises(InputError, match=r"unet .* does not fit: 1 missing: down_blocks\.1\.att"):
        found(without=[lost])


# -- reading --------------------------------------------------------------------------------------


def lazy(array):
    return LazyTensor(array.shape, array.dtype, lambda: array)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_read_exactly_and_cast_as_numpy_does(dtype):
    rng = np.random.default_rng(0)
    arrays = {
        "plain": rng.standard_normal((3, 5)).astype(dtype),
        "transposed": rng.standard_normal((3, 3, 4, 5)).astype(dtype).transpose(2, 3, 1, 0),
        "scalar": np.array(1.5, dtype),
        "empty": np.zeros((0, 3), dtype),
    }
    for wanted in (None, "float32", "bfloat16", "float16"):
        params = read_params({n: lazy(a) for n, a in arrays.items()}, wanted and jnp.dtype(wanted))
        for name, array in arrays.items():
            expected = array.astype(wanted or dtype)
            assert params[name].dtype == expected.dtype and params[name].shape == expected.shape
            assert np.array_equal(params[name], expected)


def test_array_is_taken_over_as_it_is(monkeypatch):
    """JAX on a CPU makes no copy of it; the source is left alone."""
    copies = []
    copy = reading._aligned_copy
    monkeypatch.setattr(reading, "_aligned_copy", lambda *a: copies.append(copy(*a)) or copies[-1])
    source = np.arange(1000, dtype=np.float32).reshape(10, 100)
    params = read_params({"kernel": lazy(source.T)}, None)
    assert params["kernel"].unsafe_buffer_pointer() == copies[0].ctypes.data
    assert copies[0].ctypes.data % 64 == 0 and not np.shares_memory(copies[0], source)


def test_number_too_large_for_the_dtype_is_told():
    with pytest.raises(InputError, match="kernel has values too large for float16"):
        read_params({"kernel": lazy(np.array([1.0, 1e5], np.float32))}, jnp.float16)
    infinite = read_params({"kernel": lazy(np.array([np.inf], np.float32))}, jnp.float16)
    assert np.isinf(infinite["kernel"]).all()
