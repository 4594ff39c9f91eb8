"""Prediction tables of shards, with objectives that a test has made up."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex, read_index
from shards.storage.files import list_files
from shards.tables.predictions import Prediction, TableInfo, write_predictions

Rows = Mapping[str, NDArray[np.float32]]


def label(
    folder: Path,
    shards: str,
    objectives: Rows,
    *,
    left_out: Sequence[int] = (),
    lacking: Mapping[str, Sequence[int]] | None = None,
    digests: Sequence[str] = ("panel", "panel"),
    panel: Mapping[str, Any] | None = None,
) -> None:
    """Write the tables of `shards`: `objectives` [N, V] by utterance, in the order of the index.

    Shard n of `lacking[name]` has no column `name`; utterances `left_out` have no result.
    """
    index = read_index(shards)
    folder.mkdir(exist_ok=True)

    for number, file in enumerate(list_files(shards)):
        rows = [
            _prediction(index, row, objectives, number, lacking or {}, is_empty=row in left_out)
            for row in range(len(index))
            if index.table["shard"][row].as_py() == file.url
        ]
        info = TableInfo(
            panel_digest=digests[number],
            panel=panel or {},
            labelers={"acoustics": {"values": "pitch,level"}},
            shard=file.name,
            shard_url=file.url,
            shard_size=file.size,
            shard_version=file.version,
            shard_error=None,
            num_rows=len(rows),
        )
        # Rows in another order than the index's: only offsets count.
        write_predictions(str(folder / f"{file.name}-0123456789ab.parquet"), rows[::-1], info)


def _prediction(
    index: CorpusIndex,
    row: int,
    objectives: Rows,
    number: int,
    lacking: Mapping[str, Sequence[int]],
    *,
    is_empty: bool,
) -> Prediction:
    there = {
        name: array[row]
        for name, array in objectives.items()
        if not is_empty and number not in lacking.get(name, ())
    }
    return Prediction(
        key=index.table["key"][row].as_py(),
        shard="",
        offset=index.table["offset"][row].as_py(),
        size=1,
        objectives=there,
    )
