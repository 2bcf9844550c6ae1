"""`instantid serve`: what it refuses, and the embedded model behind the `openai` client."""

import importlib.util
import signal
import socket
import sys

import openai
import pytest

from instantid_jax import embedded
from tests.serving.http.conftest import decoded
from tests.serving.http.running import running


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "without tokens lets everybody in"),
        (("--token-file", "nowhere"), "nowhere: no such file"),
        (("--sizes", 64, 100), "width=100 must be a multiple of 8"),
        (("--face", "me.png"), "me.png: no such file"),
        (("--sdxl", "a/b"), "give sdxl and instantid"),
        (("--port", 10**6), "--port 1000000"),
        (("--fast", "lightning-4"), "is not for these weights"),
    ],
)
def test_bad_input_is_one_line(run, arguments, message):
    ran = run("serve", *arguments)
    assert ran.status == 2 and message in ran.err[-1] and "Traceback" not in "".join(ran.err)


def test_a_port_that_is_taken(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ran = run("serve", "--port", taken.getsockname()[1])
    assert ran.status == 2 and "in use; choose another" in ran.err[-1]


def test_missing_packages_are_named(run, monkeypatch):
    found = importlib.util.find_spec
    missing = ("fastapi", "uvicorn")
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in missing else found(name)
    )
    ran = run("serve")
    assert ran.status == 2
    assert "missing (fastapi, uvicorn): pip install 'instantid-jax[serve]'" in ran.err[-1]


@pytest.mark.slow
def test_the_embedded_model_serves_the_openai_client():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["serve", "--port", port, "--rows", 2, 4, "--num-inference-steps", 4]
    arguments += ["--face", embedded.PORTRAIT]
    code = f"from instantid_jax.cli import main; main({[str(each) for each in arguments]})"
    with running(sys.executable, "-c", code, port=port) as server:
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
            with embedded.PORTRAIT.open("rb") as photo:
                made = client.images.edit(image=photo, prompt="snow", extra_body={"seed": 1})
            again = client.images.generate(prompt="snow", extra_body={"seed": 1})
            images = [decoded(each.data[0].b64_json) for each in (made, again)]
            assert images[0].tobytes() == images[1].tobytes() and images[0].size == (128, 128)
            events = list(client.images.generate(prompt="rain", n=2, stream=True, partial_images=1))
            assert [each.type.split(".")[1] for each in events[-2:]] == ["completed"] * 2
            assert "partial_image" in events[0].type
            with pytest.raises(openai.BadRequestError, match="is not served here"):
                client.images.generate(prompt="rain", size="512x512")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
