"""The nodes for faces: measured in photos, and their keypoints drawn."""

from typing import TYPE_CHECKING

from comfy_api.latest import io

from instantid_jax.errors import InputError
from instantid_jax.face.face import Face, output_size
from instantid_jax.face.keypoints import draw_keypoints

from .images import Tensor, read_images, to_tensor
from .people import COMBINE
from .socket_types import CATEGORY, FaceSocket, ModelSocket

if TYPE_CHECKING:
    from .generation import Model


class AnalyzeFace(io.ComfyNode):
    """Measures a person in one photo or several."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstantIDJAXAnalyzeFace",
            display_name="Analyze face (InstantID JAX)",
            category=CATEGORY,
            description=(
                "Finds the largest face in each photo with the model's face pack, antelopev2 for "
                "published weights, and averages them. The keypoints are the first photo's."
            ),
            inputs=[
                ModelSocket.Input("instantid"),
                io.Image.Input("image", tooltip="Photos of one person, as one batch."),
                io.Combo.Input("combine_embeds", options=list(COMBINE), default="average"),
            ],
            outputs=[FaceSocket.Output(display_name="face")],
        )

    @classmethod
    def execute(cls, instantid: "Model", image: Tensor, combine_embeds: str) -> io.NodeOutput:
        photos = tuple(read_images("image", image))
        return io.NodeOutput(instantid.analyze(photos, combine_embeds))


class KeypointsPreview(io.ComfyNode):
    """Draws a face's keypoints as IdentityNet sees them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="InstantIDJAXKeypointsPreview",
            display_name="Keypoints preview (InstantID JAX)",
            category=CATEGORY,
            description="Draws the five keypoints of a face as IdentityNet sees them.",
            inputs=[
                FaceSocket.Input("face"),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=16384,
                    step=8,
                    tooltip="Of the image to make; 0 for both takes the photo's aspect ratio, with "
                    "a long side of 1024.",
                ),
                io.Int.Input("height", default=0, min=0, max=16384, step=8),
            ],
            outputs=[io.Image.Output(display_name="keypoints")],
        )

    @classmethod
    def execute(cls, face: Face, width: int, height: int) -> io.NodeOutput:
        size = _size(face, width, height)
        return io.NodeOutput(to_tensor([draw_keypoints(*size, face.kps_for(*size))]))


def _size(face: Face, width: int, height: int) -> tuple[int, int]:
    """(height, width) of the drawing."""
    if bool(width) != bool(height):
        raise InputError(f"width={width}, height={height}: give both, or 0 for both")
    if width:
        return height, width
    if face.image_size is None:
        raise InputError("the face does not say its photo's size: give width and height")
    return output_size(face.image_size)
