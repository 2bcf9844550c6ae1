"""Fetching from a hub on loopback, in processes of their own: the environment is read at import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from instantid_jax.errors import InputError
from instantid_jax.weights.hub import folder_of
from instantid_jax.weights.selection import instantid_files, sdxl_files
from tests.weights.loopback_hub import COMMIT, serving
from tests.weights.test_selection import INSTANTID, SDXL_BASE

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
IDENTITY = "InstantX/InstantID"

# Arguments: the variant, or "instantid"; then what to fetch. Prints one line of JSON for each.
FETCH = """
import functools, json, logging, sys
from instantid_jax.errors import InputError
from instantid_jax.weights import hub, selection

lines = []
handler = logging.Handler()
handler.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("instantid_jax").addHandler(handler)
logging.getLogger("instantid_jax").setLevel(logging.INFO)
for kind, source in zip(sys.argv[1::2], sys.argv[2::2]):
    lines.clear()
    if kind == "instantid":
        select = selection.instantid_files
    elif kind == "tokenizers":
        select = selection.tokenizer_files
    else:
        select = functools.partial(selection.sdxl_files, variant=kind or None)
    try:
        result = {"folder": str(hub.folder_of(source, select))}
    except InputError as error:
        result = {"error": str(error)}
    print(json.dumps(result | {"log": list(lines)}))
"""


@pytest.fixture
def hub():
    sdxl = {name: name.encode() * 10 for name in SDXL_BASE}
    sdxl["unet/diffusion_pytorch_model.fp16.safetensors"] = bytes(2_500_000)
    with serving({SDXL: sdxl, IDENTITY: {name: name.encode() for name in INSTANTID}}) as hub:
        yield hub


@pytest.fixture
def fetch(hub, tmp_path):
    """Fetches pairs of kind and source in one process; returns the result of each."""

    def run(*pairs, **environment):
        unwanted = ("HF_", "HUGGING", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "XDG_CACHE")
        inherited = {k: v for k, v in os.environ.items() if not k.upper().startswith(unwanted)}
        inherited |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
        inherited["PYTHONPATH"] = str(Path(__file__).parents[2])
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", FETCH, *pairs],
            capture_output=True,
            text=True,
            env=inherited | environment,
            cwd=tmp_path,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        results = [json.loads(line) for line in done.stdout.splitlines()]
        for one in results:
            assert "\n" not in one.get("error", "")
        return results

    return run


def held(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())


def test_fetches_what_is_needed_once_then_offline(hub, fetch, tmp_path):
    wanted = sorted(sdxl_files(SDXL_BASE, "fp16"))
    (first,) = fetch("fp16", SDXL)
    assert hub.downloads() == wanted
    assert held(first["folder"]) == wanted
    assert Path(first["folder"]).is_relative_to(tmp_path / "home")
    assert first["log"] == [f"fetching {len(wanted)} files, 2.5 MB, from {SDXL}"]

    (second,) = fetch("fp16", SDXL)
    assert hub.downloads() == []
    assert second == {"folder": first["folder"], "log": []}

    hub.requests.clear()
    (offline,) = fetch("fp16", SDXL, HF_HUB_OFFLINE="1")
    assert hub.requests == []
    assert offline == {"folder": first["folder"], "log": []}

    # Only the other variant is missing.
    (other,) = fetch("", SDXL)
    networks = [name for name in sdxl_files(SDXL_BASE) if name.endswith(".safetensors")]
    assert hub.downloads() == sorted(networks)
    assert other["folder"] == first["folder"]
    assert other["log"][0].startswith("fetching 4 files, ")


def test_sizes_are_told_before_anything_is_fetched(hub, fetch):
    hub.repositories[IDENTITY]["ip-adapter.bin"] = bytes(2932)
    (result,) = fetch("instantid", IDENTITY)
    assert result["log"] == [f"fetching 3 files, 3.0 kB, from {IDENTITY}"]
    assert hub.downloads() == sorted(instantid_files(INSTANTID))


def test_revisions(hub, fetch):
    results = fetch(
        *("instantid", f"{IDENTITY}@v1"),
        *("instantid", f"{IDENTITY}@{COMMIT}"),
        *("instantid", f"{IDENTITY}@refs/pr/1"),
        *("instantid", f"{IDENTITY}@v2"),
    )
    assert len({one["folder"] for one in results[:3]}) == 1
    assert results[3]["error"].startswith(f"{IDENTITY}@v2: the repository has no revision 'v2'")
    assert len(hub.downloads()) == 3
    # The commit is cached, but only asking for a branch or tag tells which commit that is.
    known, unknown = fetch(
        *("instantid", f"{IDENTITY}@refs/pr/1"), *("instantid", IDENTITY), HF_HUB_OFFLINE="1"
    )
    assert known["folder"] == results[0]["folder"]
    assert "does not contain it" in unknown["error"]


def test_what_cannot_be_fetched_is_refused_in_a_line(hub, fetch):
    hub.gated.add("stabilityai/gated")
    results = fetch(
        *("bf16", SDXL),
        *("", "stabilityai/gated"),
        *("", "nobody/nothing"),
        *("", "./models/sdxl"),
        *("", "models/sdxl/unet"),
        *("", "sdxl"),
        *("", IDENTITY),
    )
    errors = [one["error"] for one in results]
    assert all(one["log"] == [] for one in results)
    assert errors[0] == (
        f"{SDXL}: no weights of the variant bf16 in any part; "
        "there are weights of the variant fp16 and weights without a variant: use these"
    )
    assert "it is gated" in errors[1] and f"accept its terms at {hub.url}/stabilityai" in errors[1]
    assert errors[2].startswith(
        "nobody/nothing: no such folder here, and no such public repository"
    )
    for error in errors[3:6]:
        assert "no such folder here, and not a hub id (owner/name" in error
    assert errors[6].startswith(f"{IDENTITY}: no unet/config.json, vae/config.json")
    assert hub.downloads() == []


def test_offline_without_a_cache_says_how_to_fetch(hub, fetch, tmp_path):
    (result,) = fetch("", SDXL, HF_HUB_OFFLINE="1")
    cache = tmp_path / "home" / "hub"
    assert result["error"] == (
        f"{SDXL}: HF_HUB_OFFLINE is set, and the cache {cache} does not contain it; "
        "run once without it, with a network"
    )
    assert hub.requests == []


def test_offline_with_parts_of_it_names_the_rest(hub, fetch):
    (result,) = fetch("fp16", SDXL)
    folder = Path(result["folder"])
    (folder / "tokenizer_2" / "special_tokens_map.json").unlink()
    whole, partial, wrong = fetch(
        *("tokenizers", SDXL), *("", SDXL), *("bf16", SDXL), HF_HUB_OFFLINE="1"
    )
    # No less than the repository has, though the folder alone would pass for whole.
    assert "lacks 1 of 8 files (tokenizer_2/special_tokens_map.json)" in whole["error"]
    assert "lacks 5 of 18 files (tokenizer_2/special_tokens_map.json, unet/" in partial["error"]
    assert (
        "no weights of the variant bf16 in any part; there are weights of the variant fp16"
        in wrong["error"]
    )
    (again,) = fetch("fp16", SDXL)
    assert again["folder"] == result["folder"] and again["log"][0].startswith("fetching 1 files")
    assert (folder / "tokenizer_2" / "special_tokens_map.json").is_file()


def test_cache_of_other_programs_is_used_offline(hub, fetch):
    """Theirs has no list of what the repository holds."""
    (result,) = fetch("instantid", IDENTITY)
    trees = Path(result["folder"]).parents[1] / "trees"
    for tree in trees.iterdir():
        tree.unlink()
    assert fetch("instantid", IDENTITY, HF_HUB_OFFLINE="1") == [result | {"log": []}]
    (Path(result["folder"]) / "ip-adapter.bin").unlink()
    (lacking,) = fetch("instantid", IDENTITY, HF_HUB_OFFLINE="1")
    assert lacking["error"].startswith(
        f"{IDENTITY}: HF_HUB_OFFLINE is set, and its cached files are incomplete: "
        "no weights in its top folder"
    )


def test_unreachable_or_broken_hub_leaves_the_cache(hub, fetch):
    (result,) = fetch("instantid", IDENTITY)
    hub.broken = 503
    cached, nothing = fetch(*("instantid", IDENTITY), *("", SDXL))
    assert cached["folder"] == result["folder"]
    assert cached["log"] == [f"{IDENTITY}: {hub.url} answered 503; using its cached files"]
    assert f"{hub.url} answered 503, and the cache" in nothing["error"]
    closed = "http://127.0.0.1:9"
    cached, nothing = fetch(*("instantid", IDENTITY), *("", SDXL), HF_ENDPOINT=closed)
    assert cached["folder"] == result["folder"]
    assert f"{closed} cannot be reached (ConnectError" in cached["log"][0]
    assert "check the network, or pass a local folder" in nothing["error"]


def test_file_that_vanishes_is_reported(hub, fetch):
    files = hub.repositories[IDENTITY]

    class Vanishing(dict):
        def __contains__(self, name):
            return name != "ip-adapter.bin" and super().__contains__(name)

    hub.repositories[IDENTITY] = Vanishing(files)
    (result,) = fetch("instantid", IDENTITY)
    assert result["error"].startswith(f"{IDENTITY}: the download stopped (RemoteEntryNotFoundError")
    assert result["error"].endswith("run again, cached files are kept")


def test_local_folder_comes_before_the_hub(tmp_path):
    for name in INSTANTID:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert folder_of(tmp_path, instantid_files) == tmp_path
    (tmp_path / "ip-adapter.bin").unlink()
    with pytest.raises(InputError, match=f"{tmp_path}: no weights in its top folder"):
        folder_of(str(tmp_path), instantid_files)
