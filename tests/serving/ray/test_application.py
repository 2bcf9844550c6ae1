"""The service as a deployment on one node."""

import concurrent.futures
import functools
import time
from collections.abc import Iterator

import httpx
import pytest
import ray
from ray import serve

from instantid_jax.serving.ray import faces
from tests.serving.http.conftest import decoded
from tests.serving.ray.serving import (
    EDITS,
    FACES,
    FILES,
    TOKEN,
    free_port,
    make,
    own_steps,
    replicas,
    serving,
    until,
)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The port of a cluster with room for two replicas."""
    number = free_port()
    ray.init(num_cpus=2, object_store_memory=100_000_000, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": number})
    yield number
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def client(port, tmp_path_factory) -> Iterator[httpx.Client]:
    """A client of two replicas."""
    with serving(port, tmp_path_factory.mktemp("two"), min_replicas=2) as client:
        yield client


def edit(client: httpx.Client, **fields) -> httpx.Response:
    files = {} if "face_id" in fields else FILES
    return client.post(EDITS, data={"prompt": "a", **fields}, files=files)


def test_replicas_share_faces(client):
    kept = client.post(FACES, files=FILES).json()["id"]
    answers = []
    until(
        lambda: (
            answers.append(edit(client, face_id=kept))
            or len({answer.json()["instantid"]["steps"] for answer in answers}) == 2
        )
    )
    assert {answer.status_code for answer in answers} == {200}
    removed = [client.delete(f"{FACES}/{kept}").status_code for _ in range(6)]
    assert removed == [204, *[404] * 5]
    assert {edit(client, face_id=kept).json()["error"]["code"] for _ in range(6)} == {
        "face_not_found"
    }


def test_answers_are_those_of_the_service(client):
    answer = edit(client, seed=7, size="128x64").json()
    assert decoded(answer["data"][0]["b64_json"]).size == (128, 64)
    assert decoded(answer["data"][0]["b64_json"]).getpixel((0, 0)) == (7, 0, 7)
    refused = [
        edit(client, sed=7),
        client.post(EDITS, data={"prompt": "a"}, files={"image": b"no image"}),
        httpx.post(f"{client.base_url}{EDITS}", data={"prompt": "a"}, files=FILES),
        client.get("/nowhere"),
    ]
    assert [each.status_code for each in refused] == [400, 400, 401, 404]
    assert "seed" in refused[0].json()["error"]["message"]
    assert client.get("/readyz").json() == {"status": "ready"}


def test_streams_are_not_held_back(port, tmp_path):
    slow = functools.partial(make, seconds=0.2)
    with serving(port, tmp_path, slow) as client:
        data = {"prompt": "a", "stream": "true", "num_inference_steps": 5}
        with client.stream("POST", EDITS, data=data, files=FILES) as answer:
            came = [time.monotonic() for line in answer.iter_lines() if line.startswith(": step")]
        assert len(came) == 5 and came[-1] - came[0] > 0.5


def test_a_client_that_leaves_cancels_its_images(port, tmp_path):
    with serving(port, tmp_path, functools.partial(make, seconds=0.1)) as client:
        with pytest.raises(httpx.ReadTimeout):
            edit_slowly = {"prompt": "a", "num_inference_steps": 150}
            client.post(EDITS, data=edit_slowly, files=FILES, timeout=1)
        # The engine takes one at a time: it is free again long before 150 steps.
        began = time.monotonic()
        assert edit(client, num_inference_steps=1).status_code == 200
        assert time.monotonic() - began < 10
        assert "requests_in_progress 0.0" in client.get("/metrics").text


def test_what_was_begun_is_finished_before_a_deployment_ends(port, tmp_path):
    with concurrent.futures.ThreadPoolExecutor(3) as clients:
        with serving(port, tmp_path, functools.partial(make, seconds=0.2)) as client:
            asked = [
                clients.submit(
                    httpx.post,
                    f"{client.base_url}{EDITS}",
                    headers={"Authorization": f"Bearer {TOKEN}"},
                    data={"prompt": "a", "num_inference_steps": 5},
                    files=FILES,
                    timeout=60,
                )
                for _ in range(3)
            ]
            until(lambda: "requests_in_progress 3.0" in client.get("/metrics").text)
        assert [each.result().status_code for each in asked] == [200] * 3


def test_a_replica_whose_engine_died_is_replaced(port, tmp_path):
    fatal = tmp_path / "fatal"
    with serving(port, tmp_path, functools.partial(make, fatal=fatal)) as client:
        first = edit(client).json()["instantid"]["steps"]
        fatal.write_text(str(first))

        def replaced() -> bool:
            answer = edit(client)
            return answer.status_code == 200 and answer.json()["instantid"]["steps"] != first

        until(replaced)
        assert first != own_steps()


def test_faces_are_kept_again_after_their_actor_died(port, tmp_path):
    with serving(port, tmp_path) as client:
        kept = client.post(FACES, files=FILES).json()["id"]
        (name,) = [
            each
            for each in ray.util.list_named_actors(all_namespaces=True)
            if each["name"].endswith(f"::{faces.NAME}")
        ]
        ray.kill(ray.get_actor(**name))
        codes = set()
        until(
            lambda: (
                codes.add((answer := edit(client, face_id=kept)).status_code)
                or answer.status_code == 400
            )
        )
        assert codes <= {400, 503}
        again = client.post(FACES, files=FILES).json()["id"]
        assert edit(client, face_id=again).status_code == 200


def test_numbers_are_among_those_of_ray(client):
    edit(client)
    (node,) = ray.nodes()
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until(lambda: "ray_instantid_images_total{" in httpx.get(address).text)
    lines = httpx.get(address).text.splitlines()
    assert any(
        line.startswith("ray_instantid_requests_total{") and 'status="200"' in line
        for line in lines
    )


def test_replicas_follow_the_requests(port, tmp_path):
    slow = functools.partial(make, seconds=0.2)
    with serving(port, tmp_path, slow, max_replicas=2, target_requests=2) as client:
        assert replicas() == 1
        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            data = {"prompt": "a", "num_inference_steps": 20}
            asked = [clients.submit(client.post, EDITS, data=data, files=FILES) for _ in range(8)]
            until(lambda: replicas() == 2)
            assert [each.result().status_code for each in asked] == [200] * 8
