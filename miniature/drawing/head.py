"""The head: its shape, defined by traits, and the projection of its points to pixels."""

import numpy as np

from miniature.drawing import colors
from miniature.drawing.scene import Scene
from miniature.drawing.traits import Traits

SKINS = ["#fde3d3", "#f6cdb0", "#e5ac84", "#c98a5e", "#a0643e", "#74452b", "#4a2c1e"]
HAIRS = [
    "#17131a", "#33211c", "#5a3622", "#8a4b22", "#b3421f", "#d9702c", "#d9a441", "#f0d68a",
    "#dcd6cf", "#8d9099",
]  # fmt: skip
EYES = ["#3a2012", "#6b3f1d", "#8f7a2c", "#4f8a3d", "#2f8f8a", "#2f6fb8", "#6f93b5"]


def between(low: float, high: float, place: float) -> float:
    return low + (high - low) * place


class Head:
    """A head in units of half its height from chin to crown, x to the right and y down.

    The origin is the middle between chin and crown. `at` maps such points to pixels.

    Attributes:
      scale: pixels per unit.
      skin, shade, hair, iris: colors.
    """

    def __init__(self, traits: Traits, scene: Scene, width: int, height: int):
        self.traits, self.scene = traits, scene
        self.size = np.array([width, height], float)
        self.scale = scene.face_height * min(width, height) / 2
        self.center = np.array(scene.center) * self.size
        tint = colors.mix(colors.rgb("#ffb3a8"), colors.rgb("#e0c070"), traits.undertone)
        self.skin = colors.mix(colors.along(SKINS, traits.skin), tint, 0.14)
        self.shade = colors.mix(self.skin, colors.rgb("#5a1a20"), 0.28)
        self.hair = colors.along(HAIRS, traits.hair_color)
        self.iris = colors.along(EYES, traits.eye_color)

        t = traits
        self.cheek = between(0.62, 0.82, t.face_width)
        self.temple = self.cheek * 0.96
        self.jaw = self.cheek * between(0.68, 0.95, t.jaw)
        self.chin_width = between(0.14, 0.42, t.chin)
        self.chin = between(0.92, 1.1, t.face_length)
        self.eye_x = between(0.26, 0.38, t.eye_spacing)
        self.eye_y = between(-0.02, 0.12, t.eye_height)
        self.nose_y = self.eye_y + between(0.28, 0.42, t.nose_length)
        self.mouth_y = self.nose_y + between(0.18, 0.3, t.mouth_height)
        self.mouth_x = between(0.17, 0.31, t.mouth_width)

    def at(self, points: np.ndarray, *, raised: float = 1.0) -> np.ndarray:
        """Pixels [..., 2] of points on the face.

        A turn to the side shifts points closer to the viewer more, the nose most.

        Args:
          raised: 1 on the face's surface, 0 in the plane of its outline.
        """
        x, y = np.moveaxis(np.asarray(points, float), -1, 0)
        round_ = np.sqrt(np.clip(1 - (x / 1.15) ** 2 - (y / 1.6) ** 2, 0, None))
        x = x * np.cos(self.scene.yaw) + 0.75 * raised * round_ * np.sin(self.scene.yaw)
        c, s = np.cos(self.scene.roll), np.sin(self.scene.roll)
        turned = np.stack([c * x - s * y, s * x + c * y], axis=-1)
        return self.center + self.scale * turned

    def outline(self, grown: float = 0.0) -> np.ndarray:
        """Points of the face's outline, enlarged by a factor of 1 + `grown`."""
        right = np.array(
            [
                [0.42 * self.temple, -0.93],
                [0.86 * self.temple, -0.62],
                [self.temple, -0.22],
                [self.cheek, 0.15],
                [self.jaw, 0.58],
                [0.5 * (self.jaw + self.chin_width), 0.84 * self.chin],
                [self.chin_width * 0.8, 0.985 * self.chin],
            ]
        )
        middle_top, middle_bottom = [[0.0, -1.0]], [[0.0, self.chin]]
        left = right[::-1] * [-1, 1]
        points = np.concatenate([middle_top, right, middle_bottom, left])
        return points * (1 + grown)

    @property
    def keypoints(self) -> np.ndarray:
        """[5, 2] pixels: eyes (left one first), nose, corners of the mouth."""
        eyes = self.at([[-self.eye_x, self.eye_y], [self.eye_x, self.eye_y]])
        nose = self.at([[0, self.nose_y]], raised=1.25)
        return np.concatenate([eyes, nose, self.at(self.mouth_corners())])

    def mouth_corners(self) -> np.ndarray:
        """[2, 2], depending on the expression; left corner first."""
        lift, stretch = {
            "neutral": (0.0, 1.0),
            "smile": (-0.07, 1.15),
            "laugh": (-0.08, 1.2),
            "sad": (0.06, 0.92),
            "surprised": (0.03, 0.7),
        }[self.scene.expression]
        x, y = self.mouth_x * stretch, self.mouth_y + lift
        return np.array([[-x, y], [x, y]])

    def box(self) -> np.ndarray:
        """[4] pixels: left, top, right, bottom of the face."""
        points = self.at(self.outline(), raised=0)
        return np.concatenate([points.min(0), points.max(0)])
