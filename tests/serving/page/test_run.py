"""The folder of a page's files."""

import os

import pytest

from instantid_jax.serving.page import run


@pytest.mark.slow  # Importing Gradio takes seconds.
def test_the_folder_of_a_page_is_private_and_removed():
    with run.private_folder() as folder:
        assert os.environ[run.GRADIO_FOLDER] == str(folder)
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "face.npz").write_bytes(b"")
    assert not folder.exists() and run.GRADIO_FOLDER not in os.environ
