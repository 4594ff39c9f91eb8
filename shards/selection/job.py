"""`emostream select`: makes a selection folder from prediction tables.

The folder gets selection.parquet, rejected.parquet and summary.json. The job opens no shard and
needs no GPU. A folder with a summary holds a finished selection, and the commands that read a
selection (`pack`, `report`) can see by the summary whether it is finished.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.selection.coverage import known_emotions
from shards.selection.rule import Candidates, SelectConfig, Selection, choose
from shards.selection.summary import summarize
from shards.selection.where import columns_for, filtered
from shards.storage.files import atomic_write, join, open_ranged
from shards.storage.folder import Folder
from shards.storage.parquet import METADATA_KEY
from shards.tables.predictions import (
    DISTRIBUTION,
    MODALITIES,
    TableInfo,
    distributions,
    load_predictions,
    unfinished_labeling,
)

SELECTION_NAME = "selection.parquet"
REJECTED_NAME = "rejected.parquet"
SUMMARY_NAME = "summary.json"
CONFIG_NAME = "select.yaml"
FORMAT_VERSION = 2
_COLUMNS = ("key", "shard", "offset", "size", "speaker", "duration_seconds", "emotion", "error")
_COPIED_COLUMNS = ("key", "shard", "offset", "size", "speaker", "duration_seconds")


@dataclass(frozen=True, slots=True)
class ShardVersion:
    """The file that the predictions of a shard were made from."""

    url: str
    size: int
    version: str


def select(config: SelectConfig) -> dict[str, Any]:
    """Select by `config`, write the folder, and return the content of summary.json.

    Raises ConfigError when the predictions cannot be used, or when a teacher has no predictions.
    """
    table, infos = load_predictions(
        config.predictions, [*_COLUMNS, *MODALITIES, *columns_for(config.where)]
    )
    candidates = build_candidates(table, config.teachers, infos, config.where)
    _require_teachers(candidates, infos)
    selection = choose(candidates, config)
    summary = summarize(
        candidates, selection, config, infos, unfinished=unfinished_labeling(config.predictions)
    )

    # The summary is taken away before the first table changes and is written last: a selection
    # that is killed in between leaves a folder that nobody takes for a finished one.
    folder = selection_folder(config.out)
    folder.make()
    folder.reopen()
    _write_table(folder.place(SELECTION_NAME), _selection_table(table, selection, infos))
    _write_table(folder.place(REJECTED_NAME), _rejected_table(table, selection))
    folder.sweep({SELECTION_NAME, REJECTED_NAME}.__contains__)
    folder.finish(config, summary)
    return summary


def selection_folder(url: str) -> Folder:
    """The selection folder at `url`."""
    return Folder(url=url, summary_name=SUMMARY_NAME, config_name=CONFIG_NAME)


def read_selection(folder: str, columns: Sequence[str]) -> tuple[pa.Table, dict[str, ShardVersion]]:
    """The `columns` of a selection, and the versions of the shards that it was made from, by name.

    Raises ConfigError when `folder` holds no finished selection, or one that cannot be read.
    """
    if not selection_folder(folder).is_finished():
        raise ConfigError(
            f"{folder}: no {SUMMARY_NAME}, expected a finished selection; run `emostream select` "
            "first"
        )

    url = join(folder, SELECTION_NAME)
    with open_ranged(url) as reader:
        stored = pa.BufferReader(reader.read_at(0, reader.size))
    try:
        table = pq.read_table(stored, columns=list(columns), page_checksum_verification=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(
            f"{url}: not a readable selection ({error}); run `emostream select` again"
        ) from error

    footer = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if footer.get("format_version") != FORMAT_VERSION:
        found = footer.get("format_version")
        raise ConfigError(
            f"{folder}: got selection format {found}, expected {FORMAT_VERSION}; run `emostream "
            "select` again"
        )

    return table, {name: ShardVersion(**version) for name, version in footer["shards"].items()}


def build_candidates(
    table: pa.Table,
    teachers: Sequence[str],
    infos: Sequence[TableInfo] = (),
    where: Sequence[str] = (),
) -> Candidates:
    """The rows of prediction tables in the form that `choose` takes.

    `infos` are the footers of the tables, which say what emotions each teacher knows, and `where`
    are the conditions that an utterance must meet.
    """
    shard, shards = _numbers(table["shard"])
    speaker, speakers = _numbers(table["speaker"])
    emotions = pa.array(EMOTIONS)
    predictions = {name: distributions(table, name) for name in teachers}

    return Candidates(
        key=_objects(table["key"]),
        shard=shard,
        shards=shards,
        offset=table["offset"].to_numpy(),
        speaker=speaker,
        speakers=speakers,
        error=_explained(table),
        teachers=predictions,
        truth=_positions(table["emotion"], emotions),
        seconds=table["duration_seconds"].to_numpy().astype(np.float64),
        filtered=filtered(table, where) if where else None,
        known={
            name: known_emotions(_declared(infos, name), probs)
            for name, probs in predictions.items()
        },
    )


def _declared(infos: Sequence[TableInfo], name: str) -> str | None:
    """The emotions that a teacher knows, as the footers say; None where none says it.

    A folder may hold tables of an earlier release, which do not say it, beside later ones of the
    same panel.
    """
    return next(
        (
            info.labelers[name]["emotions"]
            for info in infos
            if "emotions" in info.labelers.get(name, {})
        ),
        None,
    )


def _explained(table: pa.Table) -> NDArray[np.object_]:
    """The error of each row for which it is clear which prediction the error is about; else None.

    It is clear when a single prediction of the row is missing, or all of them. When two of three
    are missing, a row has only one error for both, and the error may be about a modality that is
    not a teacher.
    """
    # A modality that is null in every row was not labeled by this panel, so no row misses it.
    modalities = [table[name] for name in MODALITIES if table[name].null_count < len(table)]
    num_missing = np.sum([column.is_null().to_numpy() for column in modalities], axis=0)
    is_clear = (num_missing <= 1) | (num_missing == len(modalities))

    error = _objects(table["error"])
    error[~is_clear] = None

    return error


def _require_teachers(candidates: Candidates, infos: Sequence[TableInfo]) -> None:
    for name, probs in candidates.teachers.items():
        if len(probs) and np.isnan(probs).all():
            known = ", ".join(infos[0].labelers) or "none"
            raise ConfigError(
                f"--teachers {name}: no utterance has a prediction of this teacher; expected some "
                f"of the panel's labelers: {known}"
            )


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    """The position of each name among the sorted distinct names, -1 for null; and these names."""
    names = pc.unique(column).drop_null().sort()
    return _positions(column, names), names.to_pylist()


def _positions(column: pa.ChunkedArray, names: pa.Array) -> NDArray[np.int64]:
    positions = pc.fill_null(pc.index_in(column, value_set=names), -1)
    return np.asarray(positions.to_numpy().astype(np.int64))


def _objects(column: pa.ChunkedArray) -> NDArray[np.object_]:
    return np.array(column.to_numpy(), dtype=object)


def _selection_table(table: pa.Table, selection: Selection, infos: Sequence[TableInfo]) -> pa.Table:
    rows = np.flatnonzero(selection.kept)
    kept = table.select(_COPIED_COLUMNS).take(rows)

    probs = selection.probs[rows].astype(np.float32).ravel()
    distance = selection.distance[rows]
    added = {
        "label": pa.array(np.asarray(EMOTIONS, dtype=object)[selection.label[rows]], pa.string()),
        "probs": pa.FixedSizeListArray.from_arrays(pa.array(probs), type=DISTRIBUTION),
        "distance": pa.array(distance, pa.float64(), mask=np.isnan(distance)),
        "split": pa.array(selection.split[rows], pa.string()),
    }
    for name, values in added.items():
        kept = kept.append_column(name, values)

    return kept.replace_schema_metadata(
        {METADATA_KEY: _footer(infos, set(pc.unique(kept["shard"]).to_pylist()))}
    )


def _footer(infos: Sequence[TableInfo], shards: set[str]) -> str:
    """The shards of the kept utterances as JSON; `pack` sees by it whether a shard has changed."""
    versions = {
        info.shard: {"url": info.shard_url, "size": info.shard_size, "version": info.shard_version}
        for info in infos
        if info.shard in shards
    }

    return json.dumps({"format_version": FORMAT_VERSION, "shards": versions}, sort_keys=True)


def _rejected_table(table: pa.Table, selection: Selection) -> pa.Table:
    rows = np.flatnonzero(~selection.kept)
    rejected = table.select(["key", "shard"]).take(rows)

    return rejected.append_column("reason", pa.array(selection.reason[rows], pa.string()))


def _write_table(url: str, table: pa.Table) -> None:
    with atomic_write(url) as stream:
        pq.write_table(table, stream, compression="zstd", write_page_checksum=True)
