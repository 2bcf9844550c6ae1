"""Components that fit together, and components that do not."""

import pytest

from instantid_jax.components import check_fit, network
from instantid_jax.errors import InputError

UNET = {
    "block_out_channels": [32, 64],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": 1,
    "attention_head_dim": 2,
    "layers_per_block": 2,
    "cross_attention_dim": 80,
    "addition_time_embed_dim": 16,
    "projection_class_embeddings_input_dim": 48 + 6 * 16,
}
SETTINGS = {
    "unet": UNET,
    "controlnet": UNET,
    "controlnets.0": UNET | {"layers_per_block": [2, 2]},
    "image_proj": {"output_dim": 80},
    "vae": {"block_out_channels": [8, 8, 8, 8]},
    "text_encoder": {"hidden_size": 32},
    "text_encoder_2": {
        "architectures": ["CLIPTextModelWithProjection"],
        "hidden_size": 48,
        "projection_dim": 48,
    },
}
# A VAE with one block fewer than usual.
THREE_BLOCKS = {
    "block_out_channels": [8, 8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
}


def networks(part: str | None = None, **settings):
    changed = dict(SETTINGS)
    if part:
        changed[part] = changed[part] | settings
    return {name: network(name, each) for name, each in changed.items()}


def test_accepts_components_of_one_model():
    check_fit(networks())


@pytest.mark.parametrize(
    "part, settings, message",
    [
        ("image_proj", {"output_dim": 64}, r"ID tokens \(64\) must equal .* \(80\)"),
        ("controlnet", {"cross_attention_dim": 768}, "IdentityNet's cross_attention_dim"),
        ("text_encoder", {"hidden_size": 16}, "text encoders' widths"),
        ("text_encoder_2", {"projection_dim": 32}, "projection_class_embeddings_input_dim=144"),
        ("controlnet", {"block_out_channels": [32, 32]}, "block_out_channels"),
        ("controlnet", {"layers_per_block": 1}, r"layers_per_block=\(1, 1\), expected .* \(2, 2\)"),
        ("controlnet", {"in_channels": 9}, "in_channels=9"),
        ("controlnets.0", {"cross_attention_dim": 64}, r"controlnets.0: cross_attention_dim=64"),
        ("controlnets.0", {"layers_per_block": [2, 1]}, "controlnets.0: layers_per_block"),
        ("unet", {"in_channels": 8}, "image editing"),
        ("vae", {"latent_channels": 16}, "the VAE has 16 latent channels"),
        ("vae", THREE_BLOCKS, "at 1/4 of the size"),
    ],
)
def test_names_the_component_of_another_model(part, settings, message):
    with pytest.raises(InputError, match=message) as error:
        check_fit(networks(part, **settings))
    assert "\n" not in str(error.value)
