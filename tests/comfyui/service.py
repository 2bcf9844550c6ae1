"""A service on the loopback interface: what the client asks of `instantid serve`, no more."""

import base64
import contextlib
import email
import email.policy
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo


class Asked:
    """A request: its path, headers, fields, and files [H, W, 3] by name, in their order."""

    def __init__(self, path: str, headers: Any, body: bytes):
        self.path, self.headers = path, headers
        self.fields: dict[str, str] = {}
        self.files: list[tuple[str, np.ndarray]] = []
        head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
        for part in email.message_from_bytes(head + body, policy=email.policy.HTTP).iter_parts():
            name = part.get_param("name", header="content-disposition")
            content = part.get_payload(decode=True)
            if part.get_filename() is None:
                self.fields[name] = content.decode()
            else:
                assert part.get_content_type() == "image/png"
                self.files.append((name, np.asarray(Image.open(io.BytesIO(content)))))


class Service:
    """Answers every request with `status` and `answer`.

    Attributes:
      asked: the requests so far.
      holds: keep requests unanswered until the client hangs up, which sets `left`.
    """

    def __init__(self):
        self.url = ""
        self.status, self.answer = 200, answer(7)
        self.asked: list[Asked] = []
        self.holds = False
        self.arrived, self.left = threading.Event(), threading.Event()


def answer(*seeds: int) -> bytes:
    """Events of two steps, and of a white image for each seed, which has the text seed=..."""
    events = [": step 1/2", ": step 2/2", 'event: image_edit.partial_image\ndata: {"index": 0}']
    for seed in seeds:
        text = PngInfo()
        text.add_text("parameters", f"seed={seed}")
        file = io.BytesIO()
        Image.new("RGB", (6, 4), "white").save(file, "PNG", pnginfo=text)
        image = {"b64_json": base64.b64encode(file.getvalue()).decode(), "seed": seed}
        events.append(f"event: image_edit.completed\ndata: {json.dumps(image)}")
    return "".join(f"{event}\n\n" for event in events).encode()


@contextlib.contextmanager
def serving() -> Iterator[Service]:
    service = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            service.asked.append(Asked(self.path, self.headers, body))
            service.arrived.set()
            if service.holds:
                self.connection.settimeout(20)
                if self.connection.recv(1) == b"":
                    service.left.set()
                return
            self.send_response(service.status)
            self.send_header("Content-Length", str(len(service.answer)))
            self.end_headers()
            self.wfile.write(service.answer)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        service.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
