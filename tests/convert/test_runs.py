"""Training runs as a source: `inspect` describes them, `verify` compares them with PyTorch."""

from instantid_jax.runs.trained import PARTS


def test_inspect_describes_a_run(convert, run):
    folder, saved = run
    ran = convert("inspect", folder)
    assert ran.status == 0
    first, *parts, last = ran.out
    assert first == f"{folder}: a training run, step 6, the moving average"
    sizes = {name: value.size for name, value in saved[6, False].items()}
    for part, line, values in zip(PARTS, parts[::2], parts[1::2], strict=True):
        own = [size for name, size in sizes.items() if name.startswith(f"{part}.")]
        assert line.startswith(f"{part}: {len(own)} tensors, {sum(own):,} parameters, float32")
        assert values == "  all values are finite"
    assert last == "usable as --instantid; to-torch writes it as PyTorch files"
    assert convert("inspect", folder, "--headers-only").out == [first, *parts[::2], last]


def test_verify_compares_a_run(convert, run, sdxl):
    ran = convert("verify", "--sdxl", sdxl, "--instantid", run[0], "--height", 64, "--width", 40)
    assert ran.status == 0 and ran.out[-1] == "within 1e-04", ran
