"""ComfyUI's progress bar, previews and Cancel button, for the pipeline."""

import logging

import comfy.model_management
import comfy.utils
from comfy.cli_args import args
from PIL import Image

from instantid_jax.pipeline.observer import Observer, Step

logger = logging.getLogger(__name__)

# ComfyUI shrinks a preview that is larger; these are an eighth of the image.
LARGEST_PREVIEW = 512


class Progress(Observer):
    """Moves the bar of the node that runs, and ends the call when the user cancels it."""

    def __init__(self):
        self._bar = comfy.utils.ProgressBar(1)

    def on_stage(self, stage: str) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()

    def on_compile(self, program: str) -> None:
        logger.info("instantid_jax: compiling %s, once for each size", program)

    def on_step(self, step: Step) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        # A preview waits for the step, so that the devices idle between steps.
        if args.preview_method.value != "none":
            preview = Image.fromarray(step.preview()[0])
            done = step.index + 1
            self._bar.update_absolute(done, step.total, ("JPEG", preview, LARGEST_PREVIEW))

    def on_progress(self, done: int, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._bar.update_absolute(done, total)
