"""IdentityNet's configuration matches diffusers', and the recognizer must fit the Resampler."""

import dataclasses

import pytest

from instantid_jax.embedded import FACE_PACK
from instantid_jax.errors import InputError
from instantid_jax.models.controlnet import settings_like_unet
from tests.train import small
from train.model import check_recognizer, find_recognizer
from train.random_model import SETTINGS


@pytest.mark.parametrize(
    ("unet", "asked"),
    [
        (SETTINGS["unet"], {}),
        (small.UNET, {}),
        (small.UNET, {"conditioning_embedding_out_channels": (8, 16, 32, 64)}),
    ],
    ids=["three levels", "two", "conditioning channels"],
)
def test_settings_like_unet_match_from_unet(unet, asked):
    import diffusers

    sdxl = {
        "addition_embed_type": "text_time",
        "use_linear_projection": True,
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    }
    reference = diffusers.UNet2DConditionModel.from_config(sdxl | unet)
    wanted = dict(diffusers.ControlNetModel.from_unet(reference, **asked).config)
    ours = settings_like_unet(unet, *asked.values())
    ignored = {name for name in wanted if name.startswith("_")}
    # Either key may hold the number of heads.
    ignored |= {"num_attention_heads"}
    theirs = {name: wanted[name] for name in wanted.keys() - ignored}
    got = dict(diffusers.ControlNetModel.from_config(ours).config)

    def plain(value):
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    assert {name: plain(got[name]) for name in theirs} == {k: plain(v) for k, v in theirs.items()}


def test_rejects_a_recognizer_with_other_embeddings():
    recognizer = find_recognizer(FACE_PACK / "recogniser.onnx").network
    fits = dataclasses.replace(small.networks(), recognizer=recognizer)
    check_recognizer(fits)
    check_recognizer(small.networks())  # the recognizer is optional
    config = dataclasses.replace(fits.image_proj.config, embedding_dim=256)
    wide = dataclasses.replace(fits.image_proj, config=config)
    with pytest.raises(
        InputError, match=r"returns \[1, 512\], but the Resampler expects \[1, 256\]"
    ):
        check_recognizer(dataclasses.replace(fits, image_proj=wide))
