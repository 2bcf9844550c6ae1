import jax
import numpy as np
import pytest
from flax import nnx

from instantid_jax.errors import InputError
from instantid_jax.models.attention import SelfAttention
from instantid_jax.models.pag import matching, perturb
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.params import Network
from tests.pipeline.small_model import settings

UNET = Network(UNet2DConditionModel, UNetConfig.from_json(settings()["unet"]))
MID = "mid_block.attentions.0.transformer_blocks.0.attn1"


def test_patterns_are_searched_for_as_in_diffusers():
    assert matching(UNET, ("mid",)) == (MID,)
    both = matching(UNET, ("down_blocks.1", MID))
    assert MID in both and all("down_blocks.1." in path for path in both if path != MID)
    assert len(matching(UNET, ("attn1",))) > len(both)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nowhere", "no self-attention fits 'nowhere'.*mid_block"),
        ("(", "is not a regular expression"),
    ],
)
def test_a_pattern_without_a_layer_is_refused(pattern, message):
    with pytest.raises(InputError, match=message):
        matching(UNET, ("mid", pattern))


class Layer(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.attn1 = SelfAttention(32, 2, rngs=rngs)


def test_perturbed_rows_attend_to_themselves():
    layer = Layer(nnx.Rngs(0))
    state = nnx.state(layer)
    drawn = jax.tree.map(lambda p: jax.random.normal(jax.random.key(p.size), p.shape) / 6, state)
    nnx.update(layer, drawn)
    x = jax.random.normal(jax.random.key(1), (3, 8, 32))
    plain = layer.attn1(x)
    perturb(layer, ("attn1",), 2)
    both = layer.attn1(x)
    np.testing.assert_allclose(both[:1], plain[:1], atol=1e-6)
    identity = layer.attn1.to_out[0](layer.attn1.to_v(x))
    np.testing.assert_allclose(both[1:], identity[1:], atol=1e-6)
    assert np.abs(both[1:] - plain[1:]).max() > 1e-3
