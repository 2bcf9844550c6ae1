"""The progress bar, previews and the Cancel button."""

from types import SimpleNamespace

import numpy as np
import pytest

from comfyui import progress
from comfyui.progress import Progress
from tests.comfyui.comfy_stand_in import Interrupted, PreviewMethod

STEP = SimpleNamespace(index=1, total=4, preview=lambda: np.zeros((2, 8, 6, 3), np.uint8))


def test_the_bar_follows_finished_steps(host):
    bar = Progress()
    bar.on_stage("sample")
    bar.on_compile("denoise")
    for done in (1, 2):
        bar.on_step(STEP)
        bar.on_progress(done, 4)
    assert host.progress == [(1, 4, None), (2, 4, None)]


def test_previews_are_made_where_the_user_wants_them(host, monkeypatch):
    monkeypatch.setattr(progress.args, "preview_method", PreviewMethod.AUTO)
    Progress().on_step(STEP)
    ((done, total, (kind, image, _)),) = host.progress
    assert (done, total, kind, image.size) == (2, 4, "JPEG", (6, 8))


@pytest.mark.parametrize(
    "event",
    [
        lambda bar: bar.on_stage("encode"),
        lambda bar: bar.on_step(STEP),
        lambda bar: bar.on_progress(1, 4),
    ],
)
def test_canceling_ends_the_call(event, host):
    bar = Progress()
    host.interrupted = True
    with pytest.raises(Interrupted):
        event(bar)
    assert host.progress == []
