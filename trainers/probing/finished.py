"""Finished probes, read back from their folders: figures, answers, and where utterances lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.config import ConfigError
from shards.storage.documents import read_json
from trainers.probing.results import Answers

SUMMARY_NAME, PREDICTIONS_NAME, MAP_NAME = "probe.json", "predictions.parquet", "map.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedProbe:
    """A probe: what probe.json holds, its answers, and the table of its map.

    `places` has the columns `x`, `y`, `truth` and `speaker`; None where there were too few
    utterances to place.
    """

    document: Mapping[str, Any]
    answers: Answers
    places: pa.Table | None


def read_finished(folder: str) -> FinishedProbe:
    """The probe in a folder. Raises ConfigError when there is no finished one."""
    path = Path(folder)
    if not (path / SUMMARY_NAME).exists():
        raise ConfigError(
            f"--beside {folder}: holds no {SUMMARY_NAME}; expected the --out of a finished "
            "`emostream probe`"
        )

    document = read_json(path / SUMMARY_NAME)
    places = path / MAP_NAME
    return FinishedProbe(
        document=document,
        answers=answers_of(document, pq.read_table(path / PREDICTIONS_NAME)),
        places=pq.read_table(places) if places.exists() else None,
    )


def answers_of(document: Mapping[str, Any], table: pa.Table) -> Answers:
    """The answers in predictions.parquet, with the numbers that probe.json gives to names."""
    columns = {name: table[name].to_pylist() for name in table.column_names}
    folds = [fold["name"] for fold in document["folds"]]
    seeds = list(document["config"]["subset_seed"])
    names = list(document["names"])

    return Answers(
        names=names,
        utterance=np.asarray(
            [
                utterance_name(shard, key)
                for shard, key in zip(columns["shard"], columns["key"], strict=True)
            ]
        ),
        speaker=np.asarray(columns["speaker"]),
        subset=_places(columns["subset_seed"], seeds),
        fold=_places(columns["fold"], folds),
        truth=_places(columns["truth"], names),
        predicted=_places(columns["predicted"], names),
    )


def utterance_name(shard: str, key: str) -> str:
    """What an utterance is called: the last part of its shard's URL, and its key."""
    return f"{shard.rpartition('/')[2]}/{key}"


def _places(values: list[Any], names: list[Any]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    place_of = {name: place for place, name in enumerate(names)}
    return np.asarray([place_of[value] for value in values], dtype=np.int64)
