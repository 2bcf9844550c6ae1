"""`instantid_faces` as a TFDS builder: a single-process `train.prepare`.

    builder = InstantidFaces(data_dir="data", settings=RecordSettings())
    builder.download_and_prepare(download_config=DownloadConfig(manual_dir="web"))
    builder.as_data_source("train")

`tfds.builder_from_directories` reads parts that were built separately as one dataset.
"""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.dataset_builder import FileReaderBuilder

from instantid_jax.errors import InputError
from train.data.record import features
from train.data.writing import VERSION as CURRENT
from train.data.writing import ShardContents, shard_path, split_info, write_index
from train.prepare.inputs import find_shards
from train.prepare.record_settings import RecordSettings
from train.prepare.shard import write_shard


# Unregistered, so that TFDS reads a built dataset from its files. Constructing this class without
# settings would look for a face pack.
class InstantidFaces(FileReaderBuilder, skip_registration=True):
    """Images with one analyzed face each, for training InstantID."""

    VERSION = tfds.core.Version(CURRENT)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "This builder downloads nothing: put img2dataset tars, parquet files of images, or images "
        "into manual_dir."
    )

    def __init__(self, *, settings: RecordSettings = RecordSettings(), **options: Any):
        """`options` are those of every TFDS builder, such as `data_dir`."""
        self._settings = settings
        self._analyzer = settings.analyzer()
        super().__init__(file_format="array_record", **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=self.__doc__,
            features=features(self._analyzer.embedding_size),
        )

    def _download_and_prepare(
        self,
        dl_manager: tfds.download.DownloadManager,
        download_config: tfds.download.DownloadConfig | None = None,
    ) -> None:
        folder = Path(self.data_dir)
        shards = find_shards(Path(dl_manager.manual_dir))
        contents: list[ShardContents] = []
        for number, shard in enumerate(shards):
            path = shard_path(folder, number, len(shards))
            contents.append(write_shard(path, shard, self._settings, self._analyzer)[0])
        if not sum(len(shard.sizes) for shard in contents):
            raise InputError(f"no usable image in {dl_manager.manual_dir}")
        write_index(folder, contents, recognizer=self._analyzer.recognizer)
        self.info.set_splits(tfds.core.splits.SplitDict([split_info(folder, contents)]))
