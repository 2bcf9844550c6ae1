"""The embedded model behind Ray and the `openai` client."""

import functools
from collections.abc import Iterator

import numpy as np
import openai
import pytest
import ray
from ray import serve

from instantid_jax import Face, InstantIDPipeline, Request, embedded
from instantid_jax.cli.faces import FacePack
from instantid_jax.cli.ray import build
from tests.serving.http.conftest import decoded
from tests.serving.ray.serving import TOKEN, free_port

FLAGS = {"gpus": 0, "rows": [2, 4], "sizes": [64, 64], "num_inference_steps": 4}


@pytest.fixture
def port(tmp_path) -> Iterator[int]:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    number = free_port()
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    serve.run(build({**FLAGS, "token_file": str(tokens)}))
    yield number
    serve.shutdown()
    ray.shutdown()


@pytest.mark.slow
def test_images_are_those_of_the_pipeline(port):
    photo = embedded.PORTRAIT.read_bytes()
    url = f"http://127.0.0.1:{port}/v1"
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as client:
        edit = functools.partial(client.images.edit, image=photo, prompt="snow")
        made = edit(n=2, extra_body={"seed": 1})
        events = list(edit(stream=True, partial_images=1))
        with pytest.raises(openai.BadRequestError, match="is not served here"):
            edit(size="512x512")
        wrong = client.with_options(api_key="another-token-of-16")
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
    assert [event.type.split(".")[1] for event in events] == ["partial_image", "completed"]
    pipe = InstantIDPipeline.load()
    face = FacePack(face_pack=str(embedded.FACE_PACK)).analyzer().analyze(embedded.PORTRAIT)
    request = Request(
        "snow",
        face=Face.mean([face]),
        seed=1,
        height=64,
        width=64,
        num_inference_steps=4,
        num_images_per_prompt=2,
    )
    for image, own in zip(made.data, pipe.run([request]).pil_images, strict=True):
        difference = np.asarray(decoded(image.b64_json), int) - np.asarray(own, int)
        assert abs(difference).max() <= 2
