"""Training text encoders and UNet: from drawing to a folder that diffusers loads."""

import dataclasses
import json
import shutil

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from instantid_jax.components import network
from instantid_jax.errors import InputError
from instantid_jax.weights.layouts import find_sdxl
from miniature.base import published, text_to_image
from miniature.base.architecture import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE
from miniature.base.published import write_network
from miniature.base.text_to_image import Options, train_text_to_image
from miniature.stage import Stage

SMALL = {
    "unet": UNET
    | {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [16, 32],
        "attention_head_dim": [1, 2],
        "transformer_layers_per_block": [1, 1],
        "norm_num_groups": 4,
    },
    "text_encoder": TEXT_ENCODER,
    "text_encoder_2": TEXT_ENCODER_2,
}
# Its latent channels differ from those of `UNET`.
SMALL_VAE = VAE | {"block_out_channels": [8, 8, 8, 8], "latent_channels": 16}


@pytest.mark.slow
# diffusers calls np.array(tensor); torch 2.13's __array__ does not know NumPy 2's `copy`.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_trains_resumes_and_writes_a_model_that_diffusers_samples(tmp_path, monkeypatch):
    vae = network("vae", SMALL_VAE)
    params = jax.jit(vae.init)(jax.random.key(0))
    write_network(tmp_path / "vae", "diffusion_pytorch_model", SMALL_VAE, params)
    # Makes the UNet's weights span several shards.
    monkeypatch.setattr(published, "LARGEST_FILE", 200_000)
    stage = Stage(steps=3, learning_rate=1e-3, warmup_steps=1, ema_decay=0.5)
    options = Options(
        workdir=tmp_path,
        vae=tmp_path / "vae",
        weight_channels=True,
        pictures=500,
        batch=4,
        stage=stage,
    )
    train_text_to_image(SMALL, options)
    index = tmp_path / "sdxl/unet/diffusion_pytorch_model.safetensors.index.json"
    shards = set(json.loads(index.read_text())["weight_map"].values())
    assert len(shards) > 1
    assert all((index.parent / shard).stat().st_size < 250_000 for shard in shards)

    # Another run can start from this one's result.
    restarted = dataclasses.replace(options, start=tmp_path / "start")
    shutil.copytree(tmp_path / "sdxl", restarted.start)
    for file in restarted.start.glob("tokenizer*/vocab.json"):
        numbers = json.loads(file.read_text())
        numbers["it</w>"], numbers["il</w>"] = numbers["il</w>"], numbers["it</w>"]
        file.write_text(json.dumps(numbers))
    with monkeypatch.context() as patch:
        patch.setattr(text_to_image, "train", lambda stage, folder, init, *_: init(None))
        train_text_to_image(SMALL, restarted)
    files = [f for kind in ("*.safetensors", "vocab.json") for f in restarted.start.rglob(kind)]
    for file in files:
        again = tmp_path / "sdxl" / file.relative_to(restarted.start)
        assert file.read_bytes() == again.read_bytes()
    # The first run resumes with its own tokenizer only.
    with pytest.raises(InputError, match="words"):
        train_text_to_image(SMALL, restarted)
    train_text_to_image(SMALL, options)
    narrow = SMALL | {"text_encoder": TEXT_ENCODER | {"intermediate_size": 64}}
    with pytest.raises(InputError, match=r"config\.json of its text_encoder differs"):
        train_text_to_image(narrow, restarted)

    # The run does not resume with another VAE.
    write_network(
        tmp_path / "vae",
        "diffusion_pytorch_model",
        SMALL_VAE,
        jax.jit(vae.init)(jax.random.key(1)),
    )
    with pytest.raises(InputError, match="latents of"):
        train_text_to_image(SMALL, options)

    theirs = diffusers.StableDiffusionXLPipeline.from_pretrained(
        tmp_path / "sdxl", dtype=torch.float32
    )
    theirs.set_progress_bar_config(disable=True)
    base = find_sdxl(str(tmp_path / "sdxl"))
    assert base.scheduler["prediction_type"] == "v_prediction"
    assert not base.force_zeros_for_empty_prompt and base.guidance_scale == 2.0
    parts = base.components
    prompt = "a comic book drawing of a sad person, wearing a red hoodie, in the snow, even light"
    with torch.no_grad():
        text, _, pooled, _ = theirs.encode_prompt(prompt, do_classifier_free_guidance=False)
    ids = theirs.tokenizer(prompt, padding="max_length").input_ids
    encoded = [
        parts[name].network.bind(parts[name].load(jnp.dtype("float32")))(jnp.array([ids]))
        for name in ("text_encoder", "text_encoder_2")
    ]
    ours = np.concatenate([each.hidden_states for each in encoded], axis=-1)
    np.testing.assert_allclose(ours, text.numpy(), atol=1e-5)
    np.testing.assert_allclose(encoded[1].pooled, pooled.numpy(), atol=1e-5)

    (picture,) = theirs(
        prompt, height=128, width=128, num_inference_steps=2, output_type="np"
    ).images
    assert picture.shape == (128, 128, 3) and np.isfinite(picture).all() and picture.std() > 0
