"""Configuration of the validation during training."""

import dataclasses

from instantid_jax.errors import InputError
from instantid_jax.request import Settings
from train.data.buckets import Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Numbers and sample images during training, from the first records of a dataset.

    Attributes:
      dataset: folder or address of a dataset, preferably not one of the training datasets.
      every: steps between validations.
      records: number of records. Each gives one row: photo, keypoints, and the image generated
        from the record's keypoints, embedding and caption.
      loss_records: number of records whose loss is measured, or all if there are fewer; 0 measures
        no loss.
      face_pack: folder or name of a face pack, whose detector finds the faces of the generated
        images: measures `detection_rate` and `keypoint_error`.
      recognizer: `.onnx` file of a recognizer that compares these faces with the records' photos:
        measures `face_cosine`. Preferably not the one that measured the data's embeddings. Needs
        `face_pack`.
      clip: folder or hub id of a CLIP model (transformers' `CLIPModel`), which compares the
        generated images with their captions: measures `clip_t`.
      size: (height, width) of each image.
      num_inference_steps: number of denoising steps.
      guidance_scale: strength of classifier-free guidance; None is the base model's own.
      seed: seed of the noise, of images and losses.
    """

    dataset: str
    every: int = 1000
    records: int = 4
    loss_records: int = 16
    face_pack: str | None = None
    recognizer: str | None = None
    clip: str | None = None
    size: Size = (1024, 1024)
    num_inference_steps: int = Settings.num_inference_steps
    guidance_scale: float | None = Settings.guidance_scale
    seed: int = Settings.seed

    @property
    def numbers(self) -> list[str]:
        """Names of what is measured, except for the ranges of timesteps."""
        numbers = ["loss"] if self.loss_records else []
        if self.face_pack is not None:
            numbers += ["detection_rate", "keypoint_error"]
        if self.recognizer is not None:
            numbers += ["face_cosine"]
        return numbers if self.clip is None else [*numbers, "clip_t"]

    @property
    def settings(self) -> Settings:
        """The sampling settings of every image."""
        height, width = self.size
        return Settings(
            height=height,
            width=width,
            num_inference_steps=self.num_inference_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            # Captions are literal in training too.
            prompt_weighting=False,
        )

    def __post_init__(self):
        for name in ("every", "records"):
            if getattr(self, name) < 1:
                raise InputError(f"validation {name}={getattr(self, name)}: expected 1 or more")
        if self.loss_records < 0:
            raise InputError(f"validation loss_records={self.loss_records}: expected 0 or more")
        if self.recognizer is not None and self.face_pack is None:
            raise InputError(
                f"validation recognizer={self.recognizer} without face_pack: name the face pack "
                "whose detector finds the faces"
            )
        if min(self.size) < 64 or any(side % 32 for side in self.size):
            raise InputError(f"validation size={self.size}: expected multiples of 32, 64 or more")
        try:
            _ = self.settings
        except InputError as error:
            raise InputError(f"validation: {error}") from error
