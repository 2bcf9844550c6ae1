"""The small torch networks and ours with the same weights, built once."""

import dataclasses

import pytest
import torch
from flax import nnx

from instantid_jax.models.clip import CLIPTextConfig, CLIPTextModel
from instantid_jax.models.controlnet import ControlNetConfig, ControlNetModel
from instantid_jax.models.resampler import Resampler, ResamplerConfig
from instantid_jax.models.unet import UNet2DConditionModel, UNetConfig
from instantid_jax.models.vae import AutoencoderKL, VAEConfig
from instantid_jax.params import Network, Params
from tests.parity import reference
from tests.parity.bridge import to_params, unet_params


@dataclasses.dataclass
class Pair:
    """A torch network, and ours with its weights."""

    torch: torch.nn.Module
    network: Network
    params: Params

    @property
    def ours(self) -> nnx.Module:
        return self.network.bind(self.params)


def pair_unet(seed: int, num_tokens: int = 6, **settings) -> tuple[Pair, reference.IDAdapter]:
    theirs = reference.make_unet(seed, **settings)
    adapter = reference.IDAdapter(theirs, num_tokens, seed + 100)
    network = Network(UNet2DConditionModel, UNetConfig.from_json(dict(theirs.config)))
    params = unet_params(network, theirs.state_dict(), adapter.state_dict())
    return Pair(theirs, network, params), adapter


def pair_controlnet(seed: int, **settings) -> Pair:
    theirs = reference.make_controlnet(seed, **settings)
    network = Network(ControlNetModel, ControlNetConfig.from_json(dict(theirs.config)))
    return Pair(theirs, network, to_params(network, theirs.state_dict()))


def pair_vae(seed: int, **settings) -> Pair:
    theirs = reference.make_vae(seed, **settings)
    network = Network(AutoencoderKL, VAEConfig.from_json(dict(theirs.config)))
    return Pair(theirs, network, to_params(network, theirs.state_dict()))


def pair_text_encoder(seed: int, *, with_projection: bool, **settings) -> Pair:
    theirs = reference.make_text_encoder(seed, with_projection=with_projection, **settings)
    config = theirs.config.to_dict() | {"architectures": [type(theirs).__name__]}
    network = Network(CLIPTextModel, CLIPTextConfig.from_json(config))
    return Pair(theirs, network, to_params(network, theirs.state_dict()))


def pair_resampler(seed: int) -> Pair:
    settings = reference.RESAMPLER
    theirs = reference.fill(reference.Resampler(**settings), seed)
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.state_dict().items()}
    config = ResamplerConfig.from_shapes(shapes, dim_head=settings["dim_head"])
    network = Network(Resampler, config)
    return Pair(theirs, network, to_params(network, theirs.state_dict()))


@pytest.fixture(scope="session")
def unet_and_adapter() -> tuple[Pair, reference.IDAdapter]:
    return pair_unet(3)


@pytest.fixture(scope="session")
def unet(unet_and_adapter) -> Pair:
    return unet_and_adapter[0]


@pytest.fixture(scope="session")
def controlnet() -> Pair:
    return pair_controlnet(4)


@pytest.fixture(scope="session")
def vae() -> Pair:
    return pair_vae(5)


@pytest.fixture(scope="session")
def text_encoder() -> Pair:
    return pair_text_encoder(6, with_projection=False)


@pytest.fixture(scope="session")
def text_encoder_2() -> Pair:
    return pair_text_encoder(7, with_projection=True)


@pytest.fixture(scope="session")
def resampler() -> Pair:
    return pair_resampler(8)
