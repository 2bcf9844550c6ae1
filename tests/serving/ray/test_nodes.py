"""Machines that die, in a simulation by processes of one machine."""

import collections
import functools
import threading
from collections.abc import Iterator

import httpx
import pytest
import ray
from ray import serve
from ray.cluster_utils import Cluster

from tests.serving.ray.serving import (
    EDITS,
    FACES,
    FILES,
    free_port,
    make,
    replicas,
    serving,
    until,
)

CLIENTS = 6
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


@pytest.fixture
def cluster() -> Iterator[tuple[Cluster, int]]:
    """A head, two nodes with room for one replica each, and the port of the proxy on the head.

    All nodes of the simulation have one address, so a proxy on each would take the others' requests
    with it; real ones have a load balancer before them, which leaves dead ones out.
    """
    port = free_port()
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    yield cluster, port
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


class Load:
    """Clients that ask without a pause, and again where they get no image."""

    def __init__(self, client: httpx.Client):
        self._client = client
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]
        self.made: collections.Counter[int] = collections.Counter()
        self.failed: collections.Counter[str] = collections.Counter()

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                answer = self._client.post(EDITS, data={"prompt": "a"}, files=FILES)
            except httpx.TransportError as error:
                self.failed[type(error).__name__] += 1
                continue
            if answer.status_code == 200:
                self.made[answer.json()["instantid"]["steps"]] += 1
            else:
                self.failed[str(answer.status_code)] += 1
                self._ended.wait(0.2)


@pytest.mark.slow
def test_a_node_that_dies_under_load_does_not_end_the_service(cluster, tmp_path):
    nodes, port = cluster
    slow = functools.partial(make, seconds=0.005)
    with serving(port, tmp_path, slow, min_replicas=2, max_replicas=2) as client:
        with Load(client) as load:
            until(lambda: len(load.made) == 2)
            assert not load.failed
            nodes.remove_node(nodes.list_all_nodes()[-1], allow_graceful=False)
            until(lambda: replicas() == 1)
            # One replica keeps serving without room for a second.
            before = load.made.total()
            until(lambda: load.made.total() > before + 5 * CLIENTS)
            assert set(load.failed) <= {"500", "503", *("ReadError", "RemoteProtocolError")}
            kept = client.post(FACES, files=FILES)
            assert kept.status_code == 200
            # A new machine gets a replica; no request fails any more.
            lost = load.failed.copy()
            seen = set(load.made)
            nodes.add_node(**NODE)
            until(lambda: replicas() == 2 and set(load.made) - seen)
            assert load.failed == lost
        data = {"prompt": "a", "face_id": kept.json()["id"]}
        assert client.post(EDITS, data=data).status_code == 200
        print(f"{load.made.total()} images, lost: {dict(load.failed)}")
