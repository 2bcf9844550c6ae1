"""Networks in one file: of every layout, with and without settings, and files of other kinds."""

import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.json_files import write_json
from instantid_jax.pipeline.sources import Sources
from instantid_jax.weights import original
from instantid_jax.weights.layouts import find_network, find_sdxl
from instantid_jax.weights.parts import file_part
from instantid_jax.weights.torch_files import open_tensors
from tests.convert.published import TINY_VAE, UNET, write_published
from tests.parity import reference

NETWORKS = {
    "unet": ("unet", UNET),
    "vae": ("vae", TINY_VAE),
    "controlnet": ("ControlNetModel", UNET),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sound") / "both"
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return folder


def stored(sound, name):
    return load_file(sound / NETWORKS[name][0] / "diffusion_pytorch_model.safetensors")


def changed(sound, name):
    """A network's tensors with other values, under diffusers' names."""
    return {key: (value + 1).astype(np.float16) for key, value in stored(sound, name).items()}


def in_original(name, tensors, prefix):
    config = network(name, NETWORKS[name][1]).config
    named = {prefix + original.name_in(name, key, config): t for key, t in tensors.items()}
    if name == "vae":
        # Attentions are made of 1x1 convolutions.
        marks = tuple(f".{each}.weight" for each in ("q", "k", "v", "proj_out"))
        named = {k: t[:, :, None, None] if k.endswith(marks) else t for k, t in named.items()}
    return named


def write(path, tensors):
    save_file({n: np.ascontiguousarray(t) for n, t in tensors.items()}, path, {"format": "pt"})
    return path


def find(sound, **options):
    return Sources(sdxl=str(sound), instantid=str(sound), **options).find()


def replaced(sound, name, path):
    """The network of a model in which a file stands for it."""
    option, key = {
        "unet": ({"unet": str(path)}, "unet"),
        "vae": ({"vae": str(path)}, "vae"),
        "controlnet": ({"controlnets": [str(path)]}, "controlnets.0"),
    }[name]
    return find(sound, **option).components[key]


# -- layouts --------------------------------------------------------------------------------------

PREFIXES = [
    *(("unet", prefix) for prefix in (None, "model.diffusion_model.", "")),
    *(("vae", prefix) for prefix in (None, "first_stage_model.", "vae.", "")),
    *(("controlnet", prefix) for prefix in (None, "control_model.", "")),
]


@pytest.mark.parametrize(("name", "prefix"), PREFIXES)
def test_one_file_stands_for_a_network(sound, tmp_path, name, prefix):
    tensors = changed(sound, name)
    named = tensors if prefix is None else in_original(name, tensors, prefix)
    assert named.keys() != tensors.keys() or prefix is None
    own = find(sound).components[name]
    for path in (tmp_path / "x.safetensors", tmp_path / "x.ckpt"):
        if path.suffix == ".ckpt":
            state = {n: torch.from_numpy(np.ascontiguousarray(t)) for n, t in named.items()}
            torch.save({"state_dict": state, "global_step": 3}, path)
        else:
            write(path, named)
        found = replaced(sound, name, path)
        assert found.network.shapes == own.network.shapes
        params = found.load(None)
        assert params.keys() == own.load(None).keys()
        for key, value in own.load(None).items():
            np.testing.assert_array_equal(params[key], (value + 1).astype(np.float16))


@pytest.mark.parametrize("name", NETWORKS)
def test_settings_next_to_a_file_are_its_own(sound, tmp_path, name):
    folder, _ = NETWORKS[name]
    copied = shutil.copytree(sound / folder, tmp_path / "copied")
    path = next(copied.glob("*.safetensors"))
    assert file_part(name, open_tensors(path)).network == find(sound).components[name].network
    # Those of another network do not concern a file with a name of its own.
    path = path.rename(copied / "mine.safetensors")
    write_json(copied / "config.json", {"_class_name": "T2IAdapter", "channels": [8]})
    assert replaced(sound, name, path).network.shapes == find(sound).components[name].network.shapes
    path = path.rename(copied / "diffusion_pytorch_model.safetensors")
    with pytest.raises(InputError, match=r"its config\.json describes a T2IAdapter, expected a"):
        replaced(sound, name, path)


def test_sizes_that_tensors_show(sound, tmp_path):
    """A ControlNet with fewer layers and narrower features; a VAE without its 1x1 convolutions."""
    settings = UNET | {
        "transformer_layers_per_block": [1, 2],
        "conditioning_embedding_out_channels": [4, 8, 12, 16],
        "conditioning_channels": 1,
    }
    write_published(tmp_path / "x", unet=UNET, controlnet=settings, dtype="float16")
    tensors = stored(tmp_path / "x", "controlnet")
    path = write(tmp_path / "small.safetensors", tensors)
    config = replaced(sound, "controlnet", path).network.config
    assert config.transformer_layers_per_block == (1, 2)
    assert config.conditioning_embedding_out_channels == (4, 8, 12, 16)
    assert config.conditioning_channels == 1
    vae = {k: t for k, t in changed(sound, "vae").items() if "quant_conv" not in k}
    found = replaced(sound, "vae", write(tmp_path / "vae.safetensors", vae))
    assert found.network.config.use_quant_conv is found.network.config.use_post_quant_conv is False


def test_file_of_other_sizes_says_whose_sizes_were_expected(sound, tmp_path):
    wide = UNET | {"block_out_channels": [32, 64]}
    write_published(tmp_path / "x", unet=wide, controlnet=wide, dtype="float16")
    for name, option in (("unet", "unet"), ("controlnet", "controlnets")):
        path = write(tmp_path / f"{name}.safetensors", stored(tmp_path / "x", name))
        value = [str(path)] if name == "controlnet" else str(path)
        of_another_shape = r"of another shape.*read with the sizes of"
        with pytest.raises(InputError, match=rf"{of_another_shape} the model: pu"):
            find(sound, **{option: value})
        with pytest.raises(InputError, match=rf"{of_another_shape} SDXL base: pu"):
            find_network(str(path), name)


@pytest.mark.parametrize("name", NETWORKS)
def test_moving_average_next_to_a_network_is_left_out(sound, tmp_path, name):
    tensors = stored(sound, name)
    averages = {f"ema.{key}": value * 0 for key, value in tensors.items()}
    averages |= {f"{key}_ema": value * 0 for key, value in tensors.items()}
    found = replaced(sound, name, write(tmp_path / "x.safetensors", tensors | averages))
    own = find(sound).components[name].load(None)
    for key, value in found.load(None).items():
        np.testing.assert_array_equal(value, own[key])


def test_of_a_whole_checkpoint_the_weights_are_taken_not_their_average(sound, tmp_path):
    tensors = changed(sound, "unet")
    whole = in_original("unet", tensors, "model.diffusion_model.")
    averages = {
        "model_ema." + n.removeprefix("model.").replace(".", ""): t * 0 for n, t in whole.items()
    }
    path = write(tmp_path / "x.safetensors", whole | averages)
    found = replaced(sound, "unet", path).load(None)
    np.testing.assert_array_equal(found["conv_in.bias"], tensors["conv_in.bias"])
    write(path, averages)
    with pytest.raises(InputError, match=r"moving average \(model_ema\) instead of the UNet: exp"):
        replaced(sound, "unet", path)


# -- inpainting -----------------------------------------------------------------------------------


@pytest.fixture
def inpainting(sound, tmp_path):
    """SDXL with a UNet of nine channels."""
    folder = shutil.copytree(sound, tmp_path / "inpainting")
    tensors = stored(sound, "unet")
    tensors["conv_in.weight"] = np.ones((32, 9, 3, 3), np.float16)
    write(folder / "unet" / "diffusion_pytorch_model.safetensors", tensors)
    write_json(folder / "unet" / "config.json", UNET | {"in_channels": 9})
    return folder


def test_inpainting_unets_are_found(sound, inpainting, tmp_path):
    unet = find_sdxl(str(inpainting)).components["unet"]
    assert unet.network.config.in_channels == 9
    assert unet.load(None)["conv_in.kernel"].shape == (3, 3, 9, 32)
    tensors = stored(inpainting, "unet")
    files = {
        "diffusers.safetensors": tensors,
        "original.safetensors": in_original("unet", tensors, "model.diffusion_model."),
    }
    for name, each in files.items():
        path = write(tmp_path / name, each)
        found = file_part("unet", open_tensors(path), UNET)
        assert found.network == unet.network
        assert find(sound, unet=str(path)).components["unet"].network == unet.network
    assert find(inpainting).components["unet"].network == unet.network


# -- what stands in -------------------------------------------------------------------------------


def test_another_vae_stands_in_for_none(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "bare")
    vae = write(tmp_path / "vae.safetensors", changed(sound, "vae"))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    # Its settings, the scale of latents among them, still hold.
    write_json(folder / "vae" / "config.json", TINY_VAE | {"scaling_factor": 0.5})
    source = Sources(sdxl=str(folder), instantid=str(sound), vae=str(vae))
    model = source.find()
    assert list(model.components)[:4] == ["unet", "vae", "text_encoder", "text_encoder_2"]
    assert model.components["vae"].network.config.scaling_factor == 0.5
    shutil.rmtree(folder / "vae")
    # SDXL's own settings then, which these sizes do not fit.
    with pytest.raises(InputError, match="read with the sizes of SDXL base"):
        source.find()
    write_json(tmp_path / "config.json", TINY_VAE)
    assert source.find().components["vae"].network.config.scaling_factor == 0.13025
    with pytest.raises(InputError, match=r"no vae/config\.json; .* or another VAE as vae="):
        Sources(sdxl=str(folder), instantid=str(sound)).find()


def test_other_tokenizers_stand_in_for_none(sound, tmp_path):
    folder = shutil.copytree(sound, tmp_path / "bare")
    for name in ("tokenizer", "tokenizer_2"):
        shutil.move(folder / name, tmp_path / "other" / name)
    other = str(tmp_path / "other")
    found = find_sdxl(str(folder), tokenizers=other)
    assert found.tokenizers == (tmp_path / "other/tokenizer", tmp_path / "other/tokenizer_2")
    assert find_sdxl(str(sound), tokenizers=other).tokenizers == found.tokenizers
    with pytest.raises(InputError, match="or others as tokenizers="):
        find_sdxl(str(folder))


def test_networks_in_files_of_a_hub_repository(sound, tmp_path, monkeypatch):
    """A hub id and a file's path in it; the settings next to it are fetched, too."""
    files = {"vae": "vae/x.safetensors", "controlnets": "y.safetensors"}
    write_json(tmp_path / "config.json", {"_class_name": "Other"})
    (tmp_path / "vae").mkdir()
    write_json(tmp_path / "vae" / "config.json", TINY_VAE | {"scaling_factor": 0.5})
    for name, file in zip(("vae", "controlnet"), files.values(), strict=True):
        write(tmp_path / file, changed(sound, name))
    asked = []

    def fetch(repository, select):
        listed = ["config.json", "vae/config.json", "z.safetensors", *files.values()]
        asked.append((repository, select(listed)))
        return tmp_path

    monkeypatch.setattr("instantid_jax.weights.hub.fetch", fetch)
    options = {name: f"some/one/{file}" for name, file in files.items()}
    options["controlnets"] = [options["controlnets"]]
    Sources(sdxl=str(sound), instantid=str(sound), **options).check_names()
    model = find(sound, **options)
    assert model.components["vae"].network.config.scaling_factor == 0.5
    assert model.components["controlnets.0"].load(None)
    assert asked == [
        ("some/one", ["vae/x.safetensors", "vae/config.json"]),
        ("some/one", ["y.safetensors", "config.json"]),
    ]
    with pytest.raises(InputError, match=r"vae/x\.safetensors is a VAE .*: expected an SDXL check"):
        find_sdxl("some/one/vae/x.safetensors")


def test_parts_of_a_small_checkpoint_in_one_file(sound, tmp_path):
    """Networks of any kind, and only those, are taken from a whole checkpoint."""
    whole = reference.original_state(
        reference.make_unet(1),
        reference.make_vae(2),
        reference.make_text_encoder(3, with_projection=False),
        reference.make_text_encoder(4, with_projection=True),
    )
    whole |= {
        name: torch.from_numpy(np.ascontiguousarray(t))
        for name, t in in_original("vae", changed(sound, "vae"), "first_stage_model.").items()
    }
    path = tmp_path / "whole.ckpt"
    torch.save(whole, path)
    del_vae = {n: t for n, t in whole.items() if not n.startswith("first_stage_model.")}
    assert open_tensors(path).names()
    with pytest.raises(
        InputError, match=r"is an SDXL checkpoint .*: expected an SDXL ControlNet; gi"
    ):
        find(sound, controlnets=[str(path)])
    torch.save(del_vae, path)
    with pytest.raises(
        InputError, match=r"is an SDXL checkpoint .* that has no VAE: expected a VAE"
    ):
        find(sound, vae=str(path))
