"""The nodes with `instantid serve` itself, on an engine that draws."""

import json

import numpy as np
import pytest

from comfyui.client import SERVER, TOKEN
from comfyui.images import to_tensor
from comfyui.model_nodes import Connect
from instantid_jax import InputError
from tests.serving.http.running import running

PHOTOS = to_tensor(np.random.default_rng(0).integers(1, 256, (2, 16, 12, 3), np.uint8))


def test_the_service_takes_what_the_nodes_send(generate, monkeypatch, host):
    for name in (SERVER, TOKEN, "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with running() as server:
        connected = Connect.execute(server.url).args[0]
        images, provenance = generate(connected, image=PHOTOS, seed=7)
        assert images.shape == (1, 64, 64, 3)
        assert images[0, 0, 0].mul(255).round().tolist() == [7, 0, 7]
        (record,) = json.loads(provenance)
        assert record["seed"] == 7 and "embedding" not in record["instantid"]
        source = to_tensor(np.full((1, 64, 64, 3), 99, np.uint8))
        changed, _ = generate(connected, image=PHOTOS, source=source, denoise=0.5)
        assert changed.shape == (1, 64, 64, 3)
        with pytest.raises(InputError, match="no face found in image"):
            generate(connected, image=PHOTOS * 0)
