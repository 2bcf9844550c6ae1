"""An S3 server on loopback, behind a proxy that can cut connections."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "faces"


class Proxy:
    """Forwards TCP connections to a port; cuts those that `cut_after` says.

    Attributes:
      cut: number of connections that were cut after their bytes.
      requests: first lines of the requests, such as b"GET /faces/a".
    """

    def __init__(self, target: int):
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._cuts: list[int] = []
        self._open: set[socket.socket] = set()
        self.cut = 0
        self.requests: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, *counts: int) -> None:
        """Cuts all connections, and each of the next ones after a number of bytes."""
        self._cuts = list(counts)
        for end in list(self._open):
            _end(end)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        left = [self._cuts.pop(0)] if self._cuts else None
        self._open |= {client, server}
        back = threading.Thread(target=self._pump, args=(server, client, left), daemon=True)
        back.start()
        self._pump(client, server, left)

    def _pump(self, source: socket.socket, sink: socket.socket, left: list[int] | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**14):
                if b" HTTP/1.1\r\n" in data:
                    self.requests.append(data.partition(b" HTTP/1.1\r\n")[0])
                if left is not None:
                    left[0] -= len(data)
                    if left[0] < 0:
                        self.cut += 1
                        break
                sink.sendall(data)
        for end in (source, sink):
            self._open.discard(end)
            _end(end)


def _end(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Server:
    """An S3 server with the bucket `BUCKET`, and the proxy through which `environment` leads."""

    def __init__(self):
        self._server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._server.start()
        self._port = self._server.get_host_and_port()[1]
        self.proxy = Proxy(self._port)
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self._port}",
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        self.client.create_bucket(Bucket=BUCKET)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def stop(self) -> None:
        """Stops serving; the objects stay."""
        self._server.stop()

    def start(self) -> None:
        """Serves again at the same port."""
        self._server = ThreadedMotoServer("127.0.0.1", port=self._port, verbose=False)
        self._server.start()

    def names(self, prefix: str = "") -> list[str]:
        found = self.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return [each["Key"] for each in found]

    def close(self) -> None:
        self.client.close()
        self.proxy.close()
        self._server.stop()


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that this process and its children reach under s3:// addresses."""
    server = Server()
    try:
        with mock.patch.dict(os.environ, server.environment):
            # Its instances keep the address of an earlier server.
            S3FileSystem.clear_instance_cache()
            yield server
    finally:
        S3FileSystem.clear_instance_cache()
        server.close()
