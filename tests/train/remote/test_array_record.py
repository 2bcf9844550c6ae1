import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from train.remote.array_record import read_offsets


@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,uncompressed"])
@pytest.mark.parametrize("count, largest", [(1, 10), (3000, 200), (40, 300_000)])
def test_each_record_is_read_from_its_part_of_the_file(options, count, largest, tmp_path):
    random = np.random.default_rng(count)
    records = [random.bytes(int(n)) for n in random.integers(1, largest, count)]
    path = tmp_path / "x"
    writer = ArrayRecordWriter(str(path), options)
    for record in records:
        writer.write(record)
    writer.close()
    data = path.read_bytes()
    offsets, tail = read_offsets(len(data), lambda start, end: data[start:end])
    assert len(offsets) == count + 1
    assert data.endswith(tail) and len(tail) == len(data) - offsets[-1]
    for i in {0, count // 2, count - 1}:
        part = tmp_path / "part"
        with part.open("wb") as file:
            file.truncate(len(data))
            for start, end in ((offsets[i], offsets[i + 1]), (offsets[-1], len(data))):
                file.seek(start)
                file.write(data[start:end])
        assert ArrayRecordReader(str(part)).read([i])[0] == records[i]


@pytest.mark.parametrize("size", [10, 70_000, 400_000])
def test_other_files_are_refused(size):
    data = np.random.default_rng(0).bytes(size)
    for each in (data, bytes(size)):
        with pytest.raises(ValueError, match="not an ArrayRecord file"):
            read_offsets(size, lambda start, end, each=each: each[start:end])
