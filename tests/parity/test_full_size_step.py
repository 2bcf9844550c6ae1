"""SDXL's UNet and IdentityNet at full size, from files that diffusers saved."""

import subprocess
import sys

import numpy as np
import pytest

from tests.parity.reference import relative_error

TOLERANCE = 1e-4


@pytest.mark.slow
def test_full_size_step_matches_torch(tmp_path):
    for side in ("torch", "ours"):
        command = [sys.executable, "-m", "tests.parity.full_size_step", side, str(tmp_path)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    theirs, ours = (np.load(tmp_path / f"{side}.npz") for side in ("torch", "ours"))
    assert relative_error(theirs["output_without_residuals"], theirs["output"]) > 10 * TOLERANCE
    errors = {name: relative_error(ours[name], theirs[name]) for name in ours}
    print(errors)
    assert max(errors.values()) < TOLERANCE
