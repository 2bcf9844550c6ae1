"""A worker's memory does not depend on the number of images."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.face import synthetic_pack
from tests.train.prepare import web

ROOT = Path(__file__).parents[3]
# Measures the memory that the last shards need beyond the first two.
MEASURE = """
import json, sys
from pathlib import Path
from tests.memory import peak_of
from train.prepare.filtering import Filter
from train.prepare.inputs import find_shards
from train.prepare.output import Output
from train.prepare.record_settings import RecordSettings, plan
from train.prepare.shard import prepare_shard

source, output, pack = map(Path, sys.argv[1:])
settings = RecordSettings(face_pack=str(pack), filter=Filter(min_side=0, min_face_share=0))
shards = find_shards(source)
output = Output.open(output, plan(settings, shards))
analyzer = settings.analyzer()

def prepare(*numbers):
    for number in numbers:
        prepare_shard(number, shards[number], settings, output, analyzer)

prepare(0, 1)
added = peak_of(lambda: prepare(*range(2, len(shards))))
print(json.dumps([added, json.loads((output._shard_file(2, "json")).read_text())]))
"""


@pytest.mark.slow
def test_memory_grows_neither_with_shard_size_nor_with_shard_count(tmp_path):
    """Shards of 40 images are followed by two of 160, with 50 MB of JPEGs each."""
    pixels = np.random.default_rng(0).integers(0, 90, (560, 560, 3), np.uint8)
    synthetic_pack.draw_face(pixels, 112, 112, 112, 1)
    jpeg = web.encoded(pixels, quality=98)
    assert len(jpeg) > 300_000
    source = tmp_path / "web"
    source.mkdir()
    for number, images in enumerate((40, 40, 160, 160)):
        with tarfile.open(source / f"{number}.tar", "w") as tar:
            for i in range(images):
                web.put(tar, f"{number}{i:04}.jpg", jpeg)
    pack = synthetic_pack.write_pack(tmp_path / "pack")
    command = [sys.executable, "-c", MEASURE, source, tmp_path / "out", pack]
    ran = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    added, summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["kept"] == 160, summary
    assert summary["num_bytes"] > 48e6
    assert added < 15e6
