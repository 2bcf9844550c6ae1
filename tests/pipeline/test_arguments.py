"""Arguments that say the same in two ways, and arguments that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from instantid_jax import Face, InstantIDPipeline
from instantid_jax.chunks import Run, make_chunks
from instantid_jax.errors import InputError
from instantid_jax.face.keypoints import draw_keypoints
from instantid_jax.pipeline import programs, stages
from instantid_jax.pipeline.observer import Observer
from instantid_jax.pipeline.sources import Sources
from instantid_jax.request import Request
from tests.face import synthetic_pack
from tests.pipeline.small_model import KPS, SIZE, person


@pytest.fixture(scope="module")
def plain(sample):
    return sample().latents


def assert_same(result, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(result.latents, expected)


def encoded(pipe, text: str) -> dict[str, np.ndarray]:
    params = (pipe.model.params["text_encoder"], pipe.model.params["text_encoder_2"])
    prompts = [[[Run(text, 1.0)]]]
    first, second = make_chunks(pipe.model.tokenizers, (prompts, prompts), pipe.model.embeddings)
    tokens = (first.tokens(1), second.tokens(1))
    states = programs.encode_text(pipe.model.networks, params, tokens, 0)
    return {
        "prompt_embeds": np.asarray(states.hidden),
        "pooled_prompt_embeds": np.asarray(states.pooled),
    }


def test_embeddings_of_prompts_stand_for_prompts(pipe, sample):
    texts = {"prompt": "a man", "negative_prompt": "blurry"}
    positive, negative = encoded(pipe, "a man"), encoded(pipe, "blurry")
    given = positive | {f"negative_{name}": value for name, value in negative.items()}
    assert_same(sample(prompt=None, **given), sample(**texts).latents)


def test_images_that_the_memory_cannot_decode_are_refused(sample, monkeypatch):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 10}.get)
    with pytest.raises(InputError, match=r"128 x 64 pixels: decoding takes .* GB or more, this"):
        sample(output_type="np")
    assert sample(output_type="latent").latents.any()


def test_without_a_negative_prompt_its_embeddings_are_zeros(pipe, sample, plain):
    zeros = {name: np.zeros_like(value) for name, value in encoded(pipe, "").items()}
    given = {f"negative_{name}": value for name, value in zeros.items()}
    assert_same(sample(**given), plain)
    empty = sample(negative_prompt="").latents
    assert not np.array_equal(empty, plain)
    # A checkpoint may say that no negative prompt means an empty one.
    pipe.model.force_zeros_for_empty_prompt = False
    try:
        assert_same(sample(), empty)
    finally:
        pipe.model.force_zeros_for_empty_prompt = True


def test_the_second_prompt_is_the_first_unless_given(sample):
    first = sample(prompt="a man").latents
    assert_same(sample(prompt="a man", prompt_2="a man"), first)
    assert not np.array_equal(sample(prompt="a man", prompt_2="snow").latents, first)


@pytest.mark.parametrize("shape", [(512,), (1, 512), (1, 1, 512)])
def test_an_embedding_stands_for_a_face(sample, plain, shape):
    embedding = person(0).embedding.reshape(shape)
    assert_same(sample(face=None, image_embeds=embedding, kps=KPS), plain)


@pytest.mark.parametrize("of", [np.asarray, Image.fromarray])
def test_a_drawn_picture_stands_for_keypoints(sample, plain, of):
    drawn = of(draw_keypoints(*SIZE, KPS))
    embedding = person(0).embedding
    assert_same(sample(face=None, image_embeds=embedding, image=drawn), plain)
    # It tells the size, too.
    unsized = {"height": None, "width": None, "image": drawn}
    assert_same(sample(face=None, image_embeds=embedding, **unsized), plain)


def test_pose_gives_the_keypoints_and_face_the_person(sample):
    mixed = Face(embedding=person(0).embedding, kps=person(3).kps)
    assert_same(sample(pose=person(3)), sample(face=mixed).latents)


def test_several_photos_of_a_person_are_averaged(sample):
    embedding = (person(0).embedding + person(1).embedding) / 2
    expected = sample(face=Face(embedding=embedding, kps=person(0).kps)).latents
    assert_same(sample(face=Face.mean([person(0), person(1)])), expected)


def test_the_photo_tells_the_size_and_keypoints_are_scaled(sample, plain):
    """A photo of 200 x 400 gives 64 x 128; its keypoints are those of a photo so large."""
    scale = 200 / SIZE[0]
    large = Face(embedding=person(0).embedding, kps=KPS * scale, image_size=(200, 400))
    result = sample(face=large, height=None, width=None)
    np.testing.assert_allclose(result.latents, plain, atol=1e-5)


def test_whole_numbers_and_numpy_numbers_are_taken(sample):
    expected = sample(
        ip_adapter_scale=1.0, controlnet_conditioning_scale=1.0, guidance_scale=4.0, seed=3
    ).latents
    result = sample(
        ip_adapter_scale=1,
        controlnet_conditioning_scale=[1],
        control_guidance_start=0,
        control_guidance_end=1,
        guidance_scale=np.float64(4),
        seed=np.int64(3),
        height=np.int32(SIZE[0]),
        width=np.uint16(SIZE[1]),
        num_inference_steps=np.int64(3),
    )
    assert_same(result, expected)


def test_guidance_of_one_is_no_guidance(sample):
    unguided = sample(guidance_scale=0).latents
    assert_same(sample(guidance_scale=1, negative_prompt="blurry"), unguided)


def test_clip_skip_leaves_layers_out(sample, plain):
    assert_same(sample(clip_skip=0), plain)
    assert not np.array_equal(sample(clip_skip=1).latents, plain)


@pytest.mark.parametrize("way", ["start", "end"])
def test_outside_its_window_a_controlnet_counts_nothing(sample, way):
    off = sample(controlnet_conditioning_scale=0).latents
    windows = {"start": {"control_guidance_start": 0.99}, "end": {"control_guidance_end": 0.3}}
    assert_same(sample(**windows[way]), off)


def test_a_converted_model_makes_the_same_picture(pipe, sample, plain, folder, tmp_path):
    from instantid_jax.checkpoint import save_model

    list(save_model(Sources(sdxl=folder, instantid=folder).find(), tmp_path / "model"))
    converted = InstantIDPipeline.load(model=str(tmp_path / "model"))
    assert_same(sample(pipe=converted), plain)


def test_sizes_that_a_model_was_not_trained_on_get_a_warning(pipe, sample, monkeypatch, caplog):
    height, width = SIZE
    monkeypatch.setattr(pipe.model, "sides", (height, width))
    sample()
    assert not caplog.messages
    for sides in ((height + 8, width), (height, width - 8)):
        monkeypatch.setattr(pipe.model, "sides", sides)
        sample()
    assert len(caplog.messages) == 2
    assert all(m.startswith(f"width {width}, height {height}: ") for m in caplog.messages)


def test_a_photo_is_analyzed(pipe, sample, tmp_path):
    pack = synthetic_pack.write_pack(tmp_path / "pack")
    photo = synthetic_pack.photo(64, 128, (10, 30, 26, 5))
    face = pipe.analyze(photo, face_pack=str(pack))
    assert face.image_size == SIZE
    np.testing.assert_allclose(face.kps, synthetic_pack.keypoints(10, 30, 26), atol=4)
    assert np.isfinite(sample(face=face, height=None, width=None).latents).all()


NINE = np.ones((9, 2))
REFUSED = {
    "no prompt": ({"prompt": None}, "no prompt: give prompt or prompt_embeds"),
    "prompt twice": (
        {"prompt_embeds": np.ones((1, 77, 96)), "pooled_prompt_embeds": np.ones((1, 64))},
        "prompt and prompt_embeds are both given",
    ),
    "several prompts in one": ({"prompt": "a AND b"}, "prompt has AND, which joins several"),
    "alternatives": (
        {"negative_prompt_2": "[a|b]"},
        r"negative_prompt_2 has '\[a\|b\]', which",
    ),
    "a weight of words": ({"prompt": "(a:1.2.3)"}, "has the weight '1.2.3', which is not a number"),
    "too many tokens": ({"prompt": "a " * 301}, "the prompt has 301 tokens and takes 5 chunks of"),
    "embeddings of another length": (
        {
            "negative_prompt_embeds": np.ones((1, 60, 96)),
            "negative_pooled_prompt_embeds": np.ones((1, 64)),
        },
        "prompts have 60 and 77 tokens: expected one length, or multiples of 77, which are cont",
    ),
    "weighting by number": ({"prompt_weighting": 1}, "prompt_weighting=1: expected True or False"),
    "half of the embeddings": ({"prompt_embeds": np.ones((1, 77, 96))}, "give both or neither"),
    "embeddings of another model": (
        {
            "prompt": None,
            "prompt_embeds": np.ones((1, 77, 95)),
            "pooled_prompt_embeds": np.ones((1, 64)),
        },
        r"prompt_embeds has shape \[77, 95\]: expected \[L, 96\]",
    ),
    "prompt of numbers": ({"prompt": [1]}, "holds a int: expected text"),
    "no face": ({"face": None}, "give either face or image_embeds"),
    "a photo as face": ({"face": "me.jpg"}, r"pipe.analyze\(photo\) makes one"),
    "a face of another pack": ({"face": person(0, embedding=np.ones(256))}, "antelopev2"),
    "embeddings that do not fit": ({"face": None, "image_embeds": np.ones(4)}, r"expected \[512\]"),
    "an embedding without keypoints": (
        {"face": None, "image_embeds": np.ones(512)},
        "give image, kps or pose",
    ),
    "nine keypoints": ({"kps": NINE}, r"kps has shape \[9, 2\]"),
    "no such pose": ({"pose": "nowhere.jpg"}, "nowhere.jpg|antelopev2"),
    "odd height": ({"height": 100}, "height=100 must be a multiple of 8: use 96 or 104"),
    "half a size": ({"height": None}, "give both or neither"),
    "a size of words": ({"width": "wide"}, "width='wide': expected a whole number"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps=0"),
    "scheduler": ({"scheduler": "dpm2"}, "scheduler='dpm2'"),
    "eta": ({"eta": 0.5}, "choose ddim"),
    "guidance": ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
    "negative scale": ({"ip_adapter_scale": -0.1}, "at least 0"),
    "scales of two": ({"controlnet_conditioning_scale": [1, 1]}, "2 entries for 1 ControlNets"),
    "empty window": ({"control_guidance_start": 0.5, "control_guidance_end": 0.5}, "below"),
    "clip skip": ({"clip_skip": 2}, "clip_skip=2: expected 0 to 1"),
    "seed": ({"seed": -1}, "seed=-1: expected 0 to 4294967295"),
    "last seed": ({"seed": 2**32 - 1, "num_images_per_prompt": 2}, "expected 0 to 4294967294"),
    "seed of words": ({"seed": "random"}, "expected a whole number"),
    "latents of torch": ({"latents": np.ones((1, 4, 8, 16))}, "channels last"),
    "latents with NaN": ({"latents": np.full((1, 8, 16, 4), np.nan)}, "not finite"),
    "a control picture too many": ({"control_images": ["a.png"]}, "0 additional ControlNets"),
    "one size of the two": ({"original_size": 5}, "expected two whole numbers"),
    "strengths and windows of different numbers": (
        {"controlnet_conditioning_scale": [1, 1], "control_guidance_end": [1, 1, 1]},
        "controlnet_conditioning_scale 2, control_guidance_end 3",
    ),
    "output": ({"output_type": "pt"}, "output_type='pt'"),
    "generator": ({"generator": None}, "did you mean seed"),
    "pose by another name": ({"pose_image": None}, "did you mean pose"),
    "misspelt": ({"guidence_scale": 3.0}, "did you mean guidance_scale"),
    "far from all": ({"xyzzy": 1}, "expected one of prompt, face"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_argument_is_refused_in_one_line(sample, case):
    arguments, message = REFUSED[case]
    with pytest.raises(InputError, match=message) as error:
        sample(**arguments)
    assert "\n" not in str(error.value)


def test_arguments_are_refused_before_anything_is_computed(pipe, sample, monkeypatch):
    for name in ("encode", "sample", "decode"):
        monkeypatch.delattr(stages, name)
    for arguments, message in REFUSED.values():
        with pytest.raises(InputError, match=message):
            sample(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observer": Observer}, "observer=.*: expected an instance of Observer"),
        ({"observer": 5}, "observer=5: expected an instance of Observer"),
        ({"callback_on_step_end": 5}, "callback_on_step_end=5: expected a function"),
        ({"callback_on_step_end_tensor_inputs": None}, "only latents can be passed"),
        ({"guidance_scale": "7.5"}, "guidance_scale='7.5': expected a number"),
        ({"guidance_scale": True}, "guidance_scale=True: expected a number"),
        ({"seed": jax.random.key(0)}, "seed=.*: expected a whole number"),
    ],
)
def test_values_of_other_kinds_get_one_line(pipe, arguments, message):
    with pytest.raises(InputError, match=message) as error:
        pipe("x", face=person(0), **arguments)
    assert "\n" not in str(error.value)


def test_arrays_without_axes_are_numbers():
    scalar = np.array(0.5)
    request = Request("x", controlnet_conditioning_scale=scalar, seed=torch.tensor(3))
    assert request.controlnet_conditioning_scale == 0.5 and request.seed == 3
    assert Request("x", num_inference_steps=jnp.asarray(4)).num_inference_steps == 4


@pytest.mark.parametrize("requests", [Request("x"), 5, None])
def test_run_takes_a_list(pipe, requests):
    with pytest.raises(InputError, match="give a list of Requests"):
        pipe.run(requests)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mesh": "data=1"}, "mesh='data=1': expected a mesh of instantid_jax.sampling_mesh"),
        ({"vae": 5}, "vae=5: expected a path or a hub id"),
        ({"tokenizers": 3}, "tokenizers=3: expected a path or a hub id"),
        ({"torch_dtype": "float16"}, "did you mean dtype"),
    ],
)
def test_sources_of_other_kinds_get_one_line(folder, arguments, message):
    with pytest.raises(InputError, match=message):
        InstantIDPipeline.load(folder, folder, **arguments)
