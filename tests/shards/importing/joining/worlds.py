"""Small tables of utterances, votes and speakers, and their import."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.loading.index import read_index

Rows = Iterable[Iterable[object]]


def write_rows(path: Path, header: Iterable[str], rows: Rows) -> Path:
    """A CSV file with a header."""
    with path.open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(header)
        table.writerows(rows)

    return path


def write_clips(folder: Path, names: Iterable[str]) -> Path:
    """A table of utterances without media; the letters before "_" say who speaks."""
    rows = [(name, name.split("_")[0], f"words of {name}") for name in names]
    return write_rows(folder / "clips.csv", ("clip", "speaker", "transcript"), rows)


def run(clips: Path, **options: Any) -> ImportReport:
    """Import `clips` into the folder `out` beside it."""
    folder = clips.parent
    return import_table(
        ImportConfig(table=str(clips), root=str(folder), out=str(folder / "out"), **options)
    )


def metadata(clips: Path) -> dict[str, dict[str, Any]]:
    """The json of each imported utterance, by key."""
    table = read_index(str(clips.parent / "out" / "*.tar")).table
    texts = zip(table["key"].to_pylist(), table["json"].to_pylist(), strict=True)
    return {key: json.loads(text) for key, text in texts}


def rejected(clips: Path, field: str) -> dict[int, str]:
    """The reasons of the rejected rows of a joined table, by row."""
    rows = pq.read_table(clips.parent / "out" / f"import-rejected-{field}.parquet").to_pylist()
    assert len({row["row"] for row in rows}) == len(rows)
    return {row["row"]: row["reason"] for row in rows}
