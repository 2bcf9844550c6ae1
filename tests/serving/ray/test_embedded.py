"""The embedded model behind Ray and the `openai` client."""

import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest
import ray
from PIL import Image
from ray import serve

from instantid_jax import embedded
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
def test_images_are_those_of_the_command(port, tmp_path):
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
    generate(tmp_path / "own.png")
    for number, image in enumerate(made.data, 1):
        own = Image.open(tmp_path / f"own-{number}.png")
        difference = np.asarray(decoded(image.b64_json), int) - np.asarray(own, int)
        assert abs(difference).max() <= 2


def generate(output: Path) -> None:
    """Makes the images without a service, in another process: Ray forks this one."""
    code = "import sys; from instantid_jax.cli import main; main(sys.argv[1:])"
    options = ["--face", embedded.PORTRAIT, "--prompt", "snow", "--seed", 1, "--output", output]
    options += ["--height", 64, "--width", 64, "--num-inference-steps", 4]
    options += ["--num-images-per-prompt", 2]
    command = [sys.executable, "-c", code, "generate", *map(str, options)]
    subprocess.run(command, check=True)
