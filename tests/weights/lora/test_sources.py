"""Strengths in text, and the file that a folder or a hub id means."""

import pytest

from instantid_jax.errors import InputError
from instantid_jax.weights import hub
from instantid_jax.weights.lora.sources import Lora, parse_loras


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("a.safetensors", Lora("a.safetensors")),
        ("a.safetensors:0.8", Lora("a.safetensors", 0.8)),
        ("a.safetensors:.8:-1", Lora("a.safetensors", 0.8, -1.0)),
        ("a.safetensors:1:0", Lora("a.safetensors", 1.0, 0.0)),
        ("owner/name@main/a.safetensors:1e-1", Lora("owner/name@main/a.safetensors", 0.1)),
        ("a:b", Lora("a:b")),
        ("C:0.5:1:2", Lora("C:0.5", 1.0, 2.0)),
    ],
)
def test_text_says_the_strengths(text, lora):
    assert Lora.parse(text) == lora
    assert Lora.parse(str(lora)) == lora


def test_a_file_may_be_called_like_a_strength(tmp_path):
    file = tmp_path / "style:0.5"
    file.touch()
    assert Lora.parse(str(file)) == Lora(str(file))
    assert Lora.parse(file) == Lora(str(file))


def test_text_encoders_have_the_strength_of_the_unet_by_default():
    assert Lora("a", 0.5).strength("text_encoder_2") == 0.5
    assert Lora("a", 0.5, 0.0).strength("text_encoder") == 0
    assert Lora("a", 0.5, 0.0).strength("unet") == 0.5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.safetensors", "loras='a.safetensors': expected a list"),
        (Lora("a"), "expected a list"),
        (3, "loras=3: expected a list"),
        ([3], "loras: 3 is not a path"),
        (["a:1e9"], "the strength of a=1000000000.0: expected a number from -20 to 20"),
        ([Lora("a"), None], "None is not a path"),
    ],
)
def test_what_is_no_lora_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        parse_loras(given)


def test_a_folder_has_one_file_or_one_of_known_name(tmp_path):
    with pytest.raises(InputError, match="it has no weights: name a LoRA's file"):
        Lora(str(tmp_path)).find()
    (tmp_path / "style.safetensors").touch()
    assert Lora(str(tmp_path)).find() == tmp_path / "style.safetensors"
    (tmp_path / "other.safetensors").touch()
    with pytest.raises(InputError, match=r"it has other.safetensors, style.safetensors: name one"):
        Lora(str(tmp_path)).find()
    (tmp_path / "pytorch_lora_weights.safetensors").touch()
    assert Lora(tmp_path).find() == tmp_path / "pytorch_lora_weights.safetensors"
    assert Lora(str(tmp_path / "other.safetensors")).find() == tmp_path / "other.safetensors"
    with pytest.raises(InputError, match="no such folder here"):
        Lora(str(tmp_path / "none.safetensors")).find()
    with pytest.raises(InputError, match="is an address"):
        Lora("https://example.com/a.safetensors").find()


REPOSITORIES = {
    "owner/many": (
        "a_4step_lora.safetensors",
        "a_8step_lora.safetensors",
        "sub/b.safetensors",
        "sub/adapter_config.json",
        "README.md",
    ),
    "owner/one@main": ("adapter_model.safetensors", "adapter_config.json"),
}


@pytest.fixture
def repositories(monkeypatch, tmp_path):
    """Stands in for the hub, which has tests of its own; writes what is selected."""

    def fetch(repository, select):
        folder = tmp_path / repository
        for name in select(REPOSITORIES[repository]):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        return folder

    monkeypatch.setattr(hub, "fetch", fetch)


def test_a_file_in_a_repository(repositories):
    found = Lora("owner/many/a_8step_lora.safetensors").find()
    assert found.read_text() == "a_8step_lora.safetensors"
    assert not (found.parent / "a_4step_lora.safetensors").exists()
    inside = Lora("owner/many/sub/b.safetensors").find()
    assert inside.read_text() == "sub/b.safetensors"
    assert (inside.parent / "adapter_config.json").is_file()
    one = Lora("owner/one@main").find()
    assert one.read_text() == "adapter_model.safetensors"
    assert (one.parent / "adapter_config.json").is_file()
    with pytest.raises(InputError, match=r"it has a_4step_lora.safetensors, a_8step_lora"):
        Lora("owner/many").find()
    with pytest.raises(InputError, match=r"no c.safetensors; it has a_4step"):
        Lora("owner/many/c.safetensors").find()
