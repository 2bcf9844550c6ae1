"""Files of textual inversions: what they hold, what their vectors are called, what is refused."""

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from instantid_jax.errors import InputError
from instantid_jax.weights import hub
from instantid_jax.weights.embeddings import (
    EmbeddingSource,
    find_embeddings,
    join_embeddings,
    parse_embeddings,
    read_bundled,
    read_embeddings,
)
from instantid_jax.weights.torch_files import open_tensors

WIDTHS = (3, 5)


def vectors(rows: int = 2, *, keys=("clip_l", "clip_g"), seed=0, prefix="") -> dict:
    random = np.random.default_rng(seed)
    return {
        f"{prefix}{key}": random.standard_normal((rows, width), np.float32)
        for key, width in zip(keys, WIDTHS, strict=True)
    }


def write(path, tensors: dict):
    """By the name's ending: safetensors, or torch's pickles."""
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    return path


def assert_holds(embedding, first, second):
    for ours, wanted in zip(embedding.vectors, (first, second), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "bin"])
@pytest.mark.parametrize("rows", [1, 4])
def test_the_name_of_the_file_stands_for_all_vectors(tmp_path, suffix, rows):
    tensors = vectors(rows)
    path = write(tmp_path / f"style.v2-a.{suffix}", tensors)
    (found,) = read_embeddings(path, WIDTHS)
    assert (found.name, len(found), found.source) == ("style.v2-a", rows, str(path))
    assert_holds(found, *tensors.values())
    (other,) = read_embeddings(path, WIDTHS, "my style")
    assert other.name == "my style"
    assert_holds(other, *tensors.values())


def test_vectors_may_lie_in_a_state(tmp_path):
    tensors = {name: torch.from_numpy(value) for name, value in vectors().items()}
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.pt")
    (found,) = read_embeddings(tmp_path / "a.pt", WIDTHS)
    assert_holds(found, *tensors.values())


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_a_single_vector_may_have_one_axis_and_another_dtype(tmp_path, dtype):
    tensors = {name: value[0].astype(dtype) for name, value in vectors(1).items()}
    (found,) = read_embeddings(write(tmp_path / "a.safetensors", tensors), WIDTHS)
    assert len(found) == 1
    assert_holds(found, *(value[None].astype(np.float32) for value in tensors.values()))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("me_emb.safetensors", ("clip_l", "clip_g")),
        ("embeddings.pti.safetensors", ("text_encoders_0", "text_encoders_1")),
    ],
)
def test_pivotal_tuning_names_each_vector_too(tmp_path, name, keys):
    tensors = vectors(3, keys=keys)
    path = write(tmp_path / name, tensors)
    whole, *rows = read_embeddings(path, WIDTHS)
    assert whole.name == path.stem and len(whole) == 3
    assert [each.name for each in rows] == ["<s0>", "<s1>", "<s2>"]
    for i, row in enumerate(rows):
        assert_holds(row, *(value[i : i + 1] for value in tensors.values()))
    (named,) = read_embeddings(path, WIDTHS, "me")
    assert_holds(named, *tensors.values())


def test_onetrainers_loras_name_their_own(tmp_path, caplog):
    first, second = vectors(2, prefix="bundle_emb.<cat>."), vectors(1, prefix="bundle_emb.a.b.")
    output = {"bundle_emb.dog.clip_l_out": np.ones((1, 768), np.float32)}
    lora = {"lora_unet_conv_in.lora_down.weight": np.ones((2, 4), np.float32)}
    path = write(tmp_path / "lora.safetensors", first | second | output | lora)
    found = {each.name: each for each in read_embeddings(path, WIDTHS)}
    assert found.keys() == {"<cat>", "a.b"}
    assert_holds(found["<cat>"], *first.values())
    assert_holds(found["a.b"], *second.values())
    (line,) = caplog.messages
    assert line.endswith("of its embeddings, which are not vectors for both text encoders (dog)")
    assert len(read_bundled(path, open_tensors(path).tensors, WIDTHS)) == 2
    with pytest.raises(InputError, match=r"has the embeddings <cat>, a\.b, not one that could"):
        read_embeddings(path, WIDTHS, "cat")
    (one,) = read_embeddings(write(tmp_path / "one.safetensors", first | lora), WIDTHS, "cat")
    assert one.name == "cat"


REFUSED = {
    "other widths": (
        {"clip_l": np.ones((2, 768), np.float32), "clip_g": np.ones((2, 1280), np.float32)},
        "clip_l has shape [2, 768], expected [n, 3], the vectors of this model's text encoder 1",
    ),
    "numbers of vectors": (
        vectors(2) | {"clip_g": np.ones((3, 5), np.float32)},
        "clip_l has 2 vectors and clip_g 3: expected equally many",
    ),
    "no vectors": (vectors(0), "clip_l has shape [0, 3], expected [n, 3]"),
    "a scalar": (vectors() | {"clip_l": np.float32(1).reshape(())}, "clip_l has shape [], exp"),
    "three axes": (vectors() | {"clip_g": np.ones((1, 2, 5), np.float32)}, "has shape [1, 2, 5]"),
    "not finite": (
        vectors() | {"clip_g": np.array([[1, np.nan, 1, 1, 1]] * 2, np.float32)},
        "clip_g has values that are not finite: fetch the file again",
    ),
    "too large for float32": (
        {n: np.full_like(v, 1e300, np.float64) for n, v in vectors().items()},
        "clip_l has values that are not finite",
    ),
    "integers": (
        {name: np.ones_like(value, np.int64) for name, value in vectors().items()},
        "clip_l is stored as int64, expected float32, float16 or bfloat16",
    ),
    "something in addition": (
        vectors() | {"clip_l_out": np.ones((2, 3), np.float32)},
        "has 1 tensors in addition to clip_l and clip_g (clip_l_out): expected a textual inv",
    ),
    "SD 1.5": (
        {"string_to_param.*": np.ones((2, 768), np.float32)},
        "is an SD 1.x textual inversion, or one for text encoder 1 alone: expected an SDXL textual",
    ),
    "one encoder": (
        {"clip_g": np.ones((2, 1280), np.float32)},
        "is a textual inversion for text encoder 2 alone: expected an SDXL textual inversion, with",
    ),
    "a LoRA": (
        {"lora_unet_conv_in.lora_down.weight": np.ones((2, 4), np.float32)},
        "is a LoRA: expected an SDXL textual inversion, with clip_l and clip_g",
    ),
    "no embedding of OneTrainer that fits": (
        {"bundle_emb.<a>.clip_l": np.ones((2, 3), np.float32)},
        "has no embedding with clip_l and clip_g",
    ),
    "nothing": ({}, "is a file without tensors: expected"),
}


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(tmp_path, name, suffix):
    tensors, message = REFUSED[name]
    path = write(tmp_path / f"a.{suffix}", {n: np.array(value) for n, value in tensors.items()})
    with pytest.raises(InputError) as error:
        read_embeddings(path, WIDTHS)
    assert str(path) in str(error.value) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_web_uis_pickles_of_sd_15_are_refused_by_what_they_are(tmp_path):
    """With the leaves that its files have."""
    path = tmp_path / "easynegative.pt"
    tensor = torch.ones(2, 768)
    torch.save(
        {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": torch.nn.Parameter(tensor)},
            "name": "easynegative",
            "step": 499,
            "sd_checkpoint": None,
        },
        path,
    )
    with pytest.raises(InputError, match=r"is an SD 1.x textual inversion, or .*: expected an SD"):
        read_embeddings(path, (768, 1280))


@pytest.mark.parametrize("size", [0, 20, 200])
def test_a_damaged_file_is_refused(tmp_path, size):
    path = write(tmp_path / "a.safetensors", vectors(20))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError):
        read_embeddings(path, WIDTHS)


def test_names_differ_when_case_is_ignored(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("Style.safetensors", "b/style.safetensors", "a_emb.safetensors"):
        write(tmp_path / name, vectors())
    files = [EmbeddingSource(str(tmp_path / n)) for n in ("Style.safetensors", "b")]
    with pytest.raises(InputError, match="have embeddings of one name, style: give a name for all"):
        find_embeddings(files, WIDTHS)
    named = [files[0], EmbeddingSource(files[1].source, "other")]
    assert [each.name for each in find_embeddings(named, WIDTHS)] == ["Style", "other"]
    pivotal = EmbeddingSource(str(tmp_path / "a_emb.safetensors"))
    with pytest.raises(InputError, match="of one name, a_emb: give a name"):
        find_embeddings([pivotal, pivotal], WIDTHS)


def test_a_chosen_embedding_stands_before_one_in_a_lora(tmp_path, caplog):
    (chosen,) = read_embeddings(write(tmp_path / "Cat.safetensors", vectors(1)), WIDTHS)
    bundled = []
    for i, name in enumerate(["cat", "dog", "dog"]):
        tensors = vectors(2, prefix=f"bundle_emb.{name}.")
        bundled += read_embeddings(write(tmp_path / f"{i}.safetensors", tensors), WIDTHS)
    joined = join_embeddings(WIDTHS, [chosen], bundled)
    assert joined.all == [chosen, bundled[1]] and joined.widths == WIDTHS
    assert caplog.messages == [
        f"{bundled[0].source} also has an embedding cat: the one of {chosen.source} is used",
        f"{bundled[2].source} also has an embedding dog: the one of {bundled[1].source} is used",
    ]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("a.safetensors", EmbeddingSource("a.safetensors")),
        ("style=a.safetensors", EmbeddingSource("a.safetensors", "style")),
        ("<s0> = owner/name/a.bin", EmbeddingSource("owner/name/a.bin", "<s0>")),
        ("a=b=c", EmbeddingSource("b=c", "a")),
    ],
)
def test_text_gives_a_name(text, source):
    assert EmbeddingSource.parse(text) == source
    assert EmbeddingSource.parse(str(source)) == source


def test_a_file_may_have_an_equals_sign(tmp_path):
    file = tmp_path / "a=b.safetensors"
    file.touch()
    assert EmbeddingSource.parse(str(file)) == EmbeddingSource(str(file))
    assert EmbeddingSource.parse(file) == EmbeddingSource(str(file))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.safetensors", "embeddings='a.safetensors': expected a list"),
        (EmbeddingSource("a"), "expected a list"),
        (3, "embeddings=3: expected a list"),
        ([3], "embeddings: 3 is not a path or a hub id"),
        (["=a"], "a: '' cannot be the name of an embedding"),
        (["a\nb=c"], "cannot be the name of an embedding"),
    ],
)
def test_what_is_no_source_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        parse_embeddings(given)


def test_a_folder_has_one_file_or_that_of_pivotal_tuning(tmp_path):
    with pytest.raises(InputError, match="it has no weights: name an embedding's file"):
        EmbeddingSource(str(tmp_path)).find()
    (tmp_path / "style.safetensors").touch()
    assert EmbeddingSource(str(tmp_path)).find() == tmp_path / "style.safetensors"
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    with pytest.raises(InputError, match=r"it has pytorch_lora_weights.safetensors, style.safe"):
        EmbeddingSource(str(tmp_path)).find()
    (tmp_path / "me_emb.safetensors").touch()
    assert EmbeddingSource(tmp_path).find() == tmp_path / "me_emb.safetensors"
    with pytest.raises(InputError, match="no such folder here"):
        EmbeddingSource(str(tmp_path / "none.safetensors")).find()


def test_a_file_in_a_repository(monkeypatch, tmp_path):
    """Stands in for the hub, which has tests of its own."""

    def fetch(repository, select):
        assert repository == "owner/name"
        held = ["README.md", "me.safetensors", "me_emb.safetensors"]
        for name in select(held):
            write(tmp_path / name, vectors(1))
        return tmp_path

    monkeypatch.setattr(hub, "fetch", fetch)
    sources = parse_embeddings(["owner/name", "you=owner/name/me.safetensors"])
    found = find_embeddings(sources, WIDTHS)
    assert [each.name for each in found] == ["me_emb", "<s0>", "you"]
