"""Runs the page: listens, serves, and ends on an interrupt or SIGTERM."""

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI

from instantid_jax import embedded
from instantid_jax.serving.page import guard
from instantid_jax.serving.page.layout import CSS_FILE, theme

logger = logging.getLogger(__name__)

# The largest upload.
MAX_FILE_SIZE = "40mb"
# Seconds for answers that were begun; a page keeps one connection for as long as it is open.
GRACE = 2
# Where Gradio keeps files.
GRADIO_FOLDER = "GRADIO_TEMP_DIR"


def application(page: gr.Blocks, tokens: Sequence[str] = ()) -> Callable[..., object]:
    """The ASGI application of a page."""
    app = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        app,
        page,
        path="/",
        auth=guard.login(tokens),
        auth_message="Any name, and a token as password.",
        # A click on a sample portrait returns its path.
        allowed_paths=[str(path) for path in embedded.PORTRAITS],
        max_file_size=MAX_FILE_SIZE,
        footer_links=[],
        # A browser's history of runs would keep faces.
        run_history=False,
        show_error=False,
        ssr_mode=False,
        theme=theme(),
        css_paths=CSS_FILE,
    )
    # A mounted page, as of Gradio 6.31, only then refuses names of files that were not uploaded: it
    # would read them for whoever sends them.
    page.has_launched = True
    return guard.Guarded(app, local=not tokens)


def serve(page: gr.Blocks, listening: socket.socket, tokens: Sequence[str] = ()) -> None:
    """Serves until an interrupt or SIGTERM, in the main thread."""
    config = uvicorn.Config(
        application(page, tokens),
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"http://{shown}:{port}/", file=sys.stdout, flush=True)
    # An interrupt is how a page ends.
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


@contextlib.contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for uploads and images, nobody else's to read, that is removed at the end.

    Pages that are built inside keep their files there.
    """
    with tempfile.TemporaryDirectory(prefix="instantid-ui-") as folder:
        os.environ[GRADIO_FOLDER] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(GRADIO_FOLDER, None)
