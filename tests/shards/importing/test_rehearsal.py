"""`--dry-run` rejects what the import rejects, and writes nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.config import ConfigError
from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.importing.remarks import speakers_in_splits
from shards.media.audio import encode_flac

# One row for each place where a row may be rejected: while the table is read, in the plan, as a
# twin, and when its files are opened.
TABLE = (
    b"clip,audio,speaker,emotion\n"
    b"a,good.flac,s1,happy\n"
    b"b,noise.flac,s1,sad\n"
    b"c,good.flac,s2,calm\n"
    b"d,nowhere.flac,s2,sad\n"
    b"e,good.flac\n"
    b"f,other.flac,s2,calm\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A table with rows of every fate, and their files."""
    for seed, name in enumerate(("good", "other")):
        noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 4000).astype(np.float32)
        (tmp_path / f"{name}.flac").write_bytes(encode_flac(noise))
    (tmp_path / "noise.flac").write_bytes(b"no sound at all" * 20)
    (tmp_path / "t.csv").write_bytes(TABLE)
    return tmp_path


def run(folder: Path, **options: Any) -> ImportReport:
    return import_table(
        ImportConfig(
            table=str(folder / "t.csv"), root=str(folder), out=str(folder / "out"), **options
        )
    )


@pytest.mark.parametrize("options", [{}, {"deduplicate": True}, {"check": "decode"}])
def test_a_dry_run_foretells_the_import(folder: Path, options: dict[str, Any]) -> None:
    """Rows, reasons, examples, remarks and shards are those of the import; nothing is written."""
    foretold = run(folder, dry_run=True, **options)
    assert not (folder / "out").exists()
    report = run(folder, **options)
    assert report.num_written == report.num_shards == 1
    for name in set(ImportReport.__slots__) - {"num_written"}:
        assert getattr(foretold, name) == getattr(report, name)


def test_without_a_check_no_file_is_opened(folder: Path) -> None:
    """What only the file itself could tell is not foretold."""
    report = run(folder, dry_run=True, check="none")
    assert report.rejected == {"bad_row": 1, "missing_file": 1}


def test_each_reason_has_its_first_row_as_example(folder: Path) -> None:
    """Every code is shown by one row, with its key and detail."""
    report = run(folder)
    listed = pq.read_table(folder / "out" / "import-rejected.parquet").to_pylist()
    shown = {code: (item.row, item.key) for code, item in report.examples.items()}
    assert shown == {
        "unknown_audio_format": (1, "b"),
        "missing_file": (3, "d"),
        "bad_row": (4, ""),
    }
    assert [item.reason for item in sorted(report.examples.values(), key=lambda e: e.row)] == [
        item["reason"] for item in listed
    ]


def test_emotions_that_are_none_of_the_seven_are_counted(folder: Path) -> None:
    """Other names of the seven are known; of the others, each is counted."""
    remarks = run(folder).remarks
    assert (remarks.num_unknown_emotions, remarks.unknown_emotions) == (2, {"calm": 2})


def test_speakers_in_several_splits_are_named() -> None:
    """An empty split is the split train; a row without a speaker shares nobody."""
    rows = [("a", "train"), ("a", None), ("b", None), ("b", "test"), (None, "test"), (" b", "test")]
    names, splits = zip(*rows, strict=True)
    table = pa.table({"speaker": pa.array(names), "split": pa.array(splits)})
    assert speakers_in_splits(table) == {"b": ("test", "train")}


def test_a_dry_run_looks_at_the_folder_too(folder: Path) -> None:
    """A folder with somebody else's shards is refused before the import is."""
    (folder / "out").mkdir()
    (folder / "out" / "theirs.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match="shards of something else"):
        run(folder, dry_run=True)
