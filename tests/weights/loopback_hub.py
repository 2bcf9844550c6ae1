"""A small hub on the loopback interface: what huggingface_hub asks of huggingface.co, no more."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves `repositories`: id -> path -> bytes, all at one commit, on branch main and tag v1.

    Attributes:
      requests: (method, path) of everything that was asked for.
      gated: ids that answer 403.
      broken: if set, every answer is this status.
    """

    def __init__(self, repositories: dict[str, dict[str, bytes]]):
        self.repositories = repositories
        self.requests: list[tuple[str, str]] = []
        self.gated: set[str] = set()
        self.broken = 0
        self.url = ""

    def downloads(self) -> list[str]:
        """Paths of the files whose bytes were asked for, since the last call."""
        got = [path for method, path in self.requests if method == "GET" and "/resolve/" in path]
        self.requests.clear()
        return sorted(path.split("/resolve/")[1].split("/", 1)[1] for path in got)


@contextlib.contextmanager
def serving(repositories: dict[str, dict[str, bytes]]) -> Iterator[Hub]:
    hub = Hub(repositories)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.answer(with_body=True)

        def do_HEAD(self):
            self.answer(with_body=False)

        def log_message(self, *_):
            pass

        def answer(self, with_body):
            address = urlsplit(self.path)
            path = unquote(address.path)
            hub.requests.append((self.command, path))
            status, headers, body = respond(hub, path, with_sizes="blobs=" in address.query)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(hub, path, with_sizes):
    """Status, headers and body. Addresses: https://huggingface.co/docs/hub/api."""
    if hub.broken:
        return hub.broken, {}, b"broken"
    parts = path.removeprefix("/api/models").strip("/").split("/")
    name, what, rest = "/".join(parts[:2]), parts[2:3], parts[3:]
    if name in hub.gated:
        return 403, {"X-Error-Code": "GatedRepo"}, b""
    if name not in hub.repositories:
        return 401, {"X-Error-Code": "RepoNotFound"}, b""
    revision = "/".join(rest) if what == ["revision"] else rest[0] if rest else "main"
    if revision not in ("main", "v1", "refs/pr/1", COMMIT):
        return 404, {"X-Error-Code": "RevisionNotFound"}, b""
    files = hub.repositories[name]
    if what == ["resolve"]:
        return file_of(files, "/".join(rest[1:]))
    if what == ["tree"]:
        listing = [
            {"type": "file", "path": file, "size": len(content), "oid": etag(content)}
            for file, content in files.items()
        ]
    else:
        siblings = [
            {"rfilename": file} | ({"size": len(files[file])} if with_sizes else {})
            for file in files
        ]
        listing = {"id": name, "sha": COMMIT, "siblings": siblings}
    return 200, {"Content-Type": "application/json"}, json.dumps(listing).encode()


def file_of(files, name):
    if name not in files:
        return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
    headers = {"ETag": f'"{etag(files[name])}"', "X-Repo-Commit": COMMIT}
    return 200, headers, files[name]


def etag(content):
    return hashlib.sha1(content).hexdigest()
