"""`to-jax`: the model it makes, what it tells, and what it leaves behind when it ends early."""

import os
import shutil
import signal

import numpy as np
import orbax.checkpoint as ocp
import pytest

from instantid_jax import InstantIDPipeline, checkpoint
from tests.convert.published import UNET, write_published


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """SDXL and InstantID, tiny, in one folder: the arguments that name them."""
    folder = tmp_path_factory.mktemp("tiny")
    write_published(folder, unet=UNET, controlnet=UNET, dtype="float16")
    return ["--sdxl", str(folder), "--instantid", str(folder)]


def flat(params):
    """Every array of a pipeline, by a path of keys."""
    if isinstance(params, dict):
        items = params.items()
    elif isinstance(params, tuple):
        items = enumerate(params)
    else:
        return {"": np.asarray(params)}
    return {f"{key}/{inner}": a for key, each in items for inner, a in flat(each).items()}


def test_converted_model_is_the_same_model(convert, published, tmp_path):
    sdxl, instantid = str(published / "sdxl"), str(published / "instantid")
    further = str(published / "controlnet_1")
    ran = convert(
        *("to-jax", "--sdxl", sdxl, "--instantid", instantid, "--output", tmp_path / "model"),
        *("--controlnets", further, "--vae", published / "sdxl" / "vae"),
    )
    assert (ran.status, ran.out) == (0, [str(tmp_path / "model")])
    parts = ("unet", "vae", "text_encoder", "text_encoder_2", "image_proj", "ip_adapter")
    parts += ("controlnet", "controlnets.0")
    assert [line.split(" from ")[0] for line in ran.err] == [
        f"{i}/8 {part}" for i, part in enumerate(parts, start=1)
    ]

    ours = InstantIDPipeline.load(model=str(tmp_path / "model")).model
    theirs = InstantIDPipeline.load(sdxl, instantid, controlnets=[further]).model
    assert ours.networks == theirs.networks
    assert ours.schedule == theirs.schedule
    assert ours.force_zeros_for_empty_prompt == theirs.force_zeros_for_empty_prompt
    texts = ["a man in the rain", "<|endoftext|> ü!"]
    for our_tokenizer, their_tokenizer in zip(ours.tokenizers, theirs.tokenizers, strict=True):
        assert np.array_equal(our_tokenizer(texts), their_tokenizer(texts))
    our_arrays, their_arrays = flat(ours.params), flat(theirs.params)
    assert list(our_arrays) == list(their_arrays) or set(our_arrays) == set(their_arrays)
    for name, array in their_arrays.items():
        assert our_arrays[name].dtype == array.dtype == np.float32
        assert np.array_equal(our_arrays[name], array), name


def test_output_that_exists_is_left_alone(convert, tiny, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    assert f"--output {tmp_path} exists" in convert("to-jax", *tiny, "--output", tmp_path).error
    file = tmp_path / "notes.txt"
    assert f"--output {file} exists" in convert("to-jax", *tiny, "--output", file).error
    assert "exists" in convert("to-torch", tmp_path, "--output", tmp_path).error
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"] and file.read_text() == "mine"


def test_empty_folder_and_missing_parents_are_taken(convert, tiny, tmp_path):
    output = tmp_path / "a" / "b"
    output.mkdir(parents=True)
    assert convert("to-jax", *tiny, "--output", output).status == 0
    assert (output / checkpoint.INDEX).is_file()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + signal.SIGTERM)]
)
def test_signal_while_orbax_writes_leaves_nothing(
    convert, tiny, tmp_path, monkeypatch, sent, status
):
    """Its threads would keep writing into the folder that is being removed."""
    save, saved = ocp.Checkpointer.save, []

    def interrupted(self, path, **options):
        if len(saved) == 2:
            os.kill(os.getpid(), sent)
        save(self, path, **options)
        saved.append(path)

    monkeypatch.setattr(ocp.Checkpointer, "save", interrupted)
    before = signal.getsignal(signal.SIGTERM)
    # A shell has programs in the background ignore it, and these tests may be one.
    interrupts = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ran = convert("to-jax", *tiny, "--output", tmp_path / "model")
    finally:
        signal.signal(signal.SIGINT, interrupts)
    assert ran.status == status and ran.out == []
    assert ran.err[3:] == (["convert: error: interrupted"] if status == 130 else [])
    assert len(saved) == 3  # the one that was being written is finished
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_full_disk_is_told_before_it_is_full(convert, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoint.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000)
    )
    error = convert("to-jax", *tiny, "--output", tmp_path / "model").error
    assert "not enough disk space for unet: " in error and "0.0 GB free" in error
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_is_told(convert, tiny, tmp_path):
    (tmp_path / "file").touch()
    error = convert("to-jax", *tiny, "--output", tmp_path / "file" / "model").error
    assert f"{tmp_path / 'file'} is a file" in error
