"""CLIP's image and text features against transformers' CLIPModel, read from its folder."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from instantid_jax.errors import InputError
from instantid_jax.models.clip import CLIPTextConfig
from instantid_jax.models.clip_vision import CLIPVisionConfig
from instantid_jax.similarity import ClipSimilarity, Preprocessing
from instantid_jax.weights.clip import TEXT_SIZES, find_clip
from tests.parity import reference
from tests.parity.clip_model import processor, their_model, write_clip

TOLERANCE = 1e-5
CAPTIONS = ["the man in red", "rain", "a " * 100]


def images() -> list[np.ndarray]:
    """Smooth and noisy ones, larger and smaller than the crop, wide and tall."""
    random = np.random.default_rng(0)
    return [
        random.integers(0, 256, (*size, 3)).astype(np.uint8)
        for size in ((64, 96), (70, 33), (32, 32), (20, 31))
    ] + [np.tile(np.arange(0, 255, 3, np.uint8)[:, None, None], (1, 50, 3))]


def pixels_of(given) -> np.ndarray:
    """transformers' preprocessing: [N, 3, 32, 32]."""
    return processor()(images=[Image.fromarray(each) for each in given], return_tensors="np")[
        "pixel_values"
    ]


def unit(tensor: torch.Tensor) -> np.ndarray:
    return torch.nn.functional.normalize(tensor, dim=-1).numpy()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_features_equal_transformers(tmp_path, activation):
    theirs = write_clip(tmp_path / "clip", activation)
    ours = ClipSimilarity(str(tmp_path / "clip"))
    given = images()
    with torch.no_grad():
        pixels = torch.from_numpy(np.asarray(pixels_of(given)))
        wanted = unit(theirs.get_image_features(pixel_values=pixels).pooler_output)
        tokenizer = reference.CLIPTokenizer.from_pretrained(tmp_path / "clip")
        ids = tokenizer(
            CAPTIONS, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
        ).input_ids
        texts = unit(theirs.get_text_features(input_ids=ids).pooler_output)
    found = ours.embed_images(given)
    assert reference.relative_error(found, wanted) < TOLERANCE
    assert reference.relative_error(ours.embed_texts(CAPTIONS), texts) < TOLERANCE
    # Each image is its own, also in another batch.
    np.testing.assert_allclose(ours.embed_images(given[2:3]), found[2:3], atol=1e-6)


def test_the_activation_matters(tmp_path):
    features = []
    for activation in ("quick_gelu", "gelu"):
        write_clip(tmp_path / activation, activation)
        ours = ClipSimilarity(str(tmp_path / activation))
        features.append((ours.embed_images(images()), ours.embed_texts(CAPTIONS)))
    for one, other in zip(*features, strict=True):
        assert reference.relative_error(one, other) > 10 * TOLERANCE


def test_more_images_than_are_embedded_at_a_time(tmp_path, monkeypatch):
    write_clip(tmp_path / "clip")
    ours = ClipSimilarity(str(tmp_path / "clip"))
    whole = ours.embed_images(images())
    monkeypatch.setattr("instantid_jax.similarity.IMAGES_AT_A_TIME", 2)
    np.testing.assert_allclose(ours.embed_images(images()), whole, atol=1e-6)
    assert ours.embed_images([]).shape == (0, 20)


def test_preprocessing_equals_transformers():
    ours = Preprocessing.from_json(processor().to_dict())
    found = np.stack([ours(each) for each in images()])
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), pixels_of(images()), atol=1e-6)


def test_published_settings_are_read():
    """Old files have numbers instead of sizes by name."""
    mean, std = processor().image_mean, processor().image_std
    old = {"size": 224, "crop_size": 224, "image_mean": mean, "image_std": std, "resample": 3}
    made = Preprocessing.from_json(old)
    assert (made.size, made.crop) == (224, (224, 224))
    for change in ({"resample": 2}, {"do_center_crop": False}, {"rescale_factor": 1 / 127.5}):
        with pytest.raises(InputError, match=f"{next(iter(change))}=.* is not supported"):
            Preprocessing.from_json(old | change)
    with pytest.raises(InputError, match="with a shortest_edge"):
        Preprocessing.from_json(old | {"size": {"height": 224, "width": 224}})


def test_sizes_that_a_file_leaves_out_are_transformers(tmp_path):
    """New files have only what differs from transformers' defaults."""
    write_clip(tmp_path / "clip")
    path = tmp_path / "clip" / "config.json"
    settings = json.loads(path.read_text())
    settings["text_config"], settings["vision_config"] = {}, {}
    path.write_text(json.dumps(settings))
    with pytest.raises(InputError, match="does not fit"):
        find_clip(str(tmp_path / "clip"))
    theirs = CLIPConfig()
    for ours, config in (
        (CLIPTextConfig(**TEXT_SIZES), theirs.text_config),
        (CLIPVisionConfig(), theirs.vision_config),
    ):
        fields = set(vars(ours)) - {"with_projection"}
        assert {n: getattr(ours, n) for n in fields} == {n: getattr(config, n) for n in fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "vocab.json").unlink(), r"no vocab\.json"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config"),
        (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
        (
            lambda folder: their_model("gelu").text_model.save_pretrained(folder),
            "expected a whole CLIP model|expected a clip model",
        ),
        (
            lambda folder: CLIPImageProcessorPil(
                size={"shortest_edge": 40}, crop_size={"height": 40, "width": 40}
            ).save_pretrained(folder),
            r"crops to \(40, 40\), but the image encoder takes 32 x 32",
        ),
    ],
)
def test_other_folders_are_refused(tmp_path, change, message):
    write_clip(tmp_path / "clip")
    change(tmp_path / "clip")
    with pytest.raises(InputError, match=message):
        ClipSimilarity(str(tmp_path / "clip"))
