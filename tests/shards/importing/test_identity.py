"""A shard is what is in it: what changes no sample changes no shard, and opens no file twice."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.importing import preparing
from shards.importing.config import MIB, ImportConfig
from shards.importing.cutting import cut_rows
from shards.importing.job import import_table
from shards.importing.plan import PlannedRow
from shards.storage.files import open_ranged
from shards.storage.names import list_names
from shards.tar.reader import index_shard
from tests.shards.importing.test_job import (
    as_dict,
    rejected,
    root,
    row,
    run,
    samples,
    shard_bytes,
    write_csv,
)

__all__ = ["root"]


@pytest.fixture
def imported(root: Path, tmp_path: Path) -> Path:
    """The folder of an import of eight rows in two shards, one row of which is rejected."""
    (root / "noise.flac").write_bytes(b"no sound at all" * 20)
    rows = [row(n, transcript="words" if n < 4 else "") for n in range(8)]
    rows[5]["audio"] = "noise.flac"
    report = run(write_csv(tmp_path / "t.csv", rows), root, tmp_path / "out")
    assert (report.num_shards, report.rejected) == (2, {"unknown_audio_format": 1})
    return tmp_path / "out"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the media files that are read, in the order of reading."""
    names: list[str] = []
    read_bytes = preparing.read_bytes

    def noted(url: str, *, max_bytes: int) -> bytes:
        names.append(Path(url).name)
        return read_bytes(url, max_bytes=max_bytes)

    monkeypatch.setattr(preparing, "read_bytes", noted)
    return names


def states(out: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}


def again(out: Path, root: Path, **options: Any) -> Any:
    return run(out.parent / "t.csv", root, out, **options)


def test_an_unchanged_import_opens_no_file(imported: Path, root: Path, opened: list[str]) -> None:
    """Everything is known from the facts beside the shards, the rejected row included."""
    before = states(imported)
    report = again(imported, root)
    assert (report.num_written, report.num_shards, opened) == (0, 2, [])
    assert list(rejected(imported)) == [5]
    assert states(imported) == before


def test_touched_files_are_read_once_and_change_nothing(
    imported: Path, root: Path, opened: list[str]
) -> None:
    """Only rows that were touched are read, no shard is written, and the next import reads none."""
    before = states(imported)
    for name in ("1.flac", "6.npy"):
        os.utime(root / name)

    assert again(imported, root).num_written == 0
    # A row is read as a whole.
    assert sorted(opened) == ["1.flac", "1.npy", "6.flac", "6.npy"]

    opened.clear()
    assert again(imported, root).num_written == 0
    assert opened == []
    assert states(imported) == before
    assert list(rejected(imported)) == [5]


def test_what_must_be_written_is_read_once(imported: Path, root: Path, opened: list[str]) -> None:
    """Where every sample has changed, only the first row of a shard is read twice.

    A first import reads none twice.
    """
    rows = [row(n, transcript="words" if n < 4 else "", take="2e5") for n in range(8)]
    table = write_csv(imported.parent / "t.csv", rows)
    assert run(table, root, imported, num_workers=1).num_written == 2
    assert len(opened) == 2 * (8 + 2)
    opened.clear()
    run(table, root, imported.parent / "fresh")
    assert len(opened) == 2 * 8


@pytest.mark.parametrize("check", ["decode", "none"])
def test_another_check_changes_no_shard_that_passes_it(
    imported: Path, root: Path, check: str
) -> None:
    """What passes both checks is the same; a row that only the milder check passes comes in."""
    before = states(imported)
    report = again(imported, root, check=check)
    assert report.num_imported == (8 if check == "none" else 7)
    assert len(before.items() & states(imported).items()) == (1 if check == "none" else 2)


def test_shards_do_not_depend_on_how_they_came_about(
    imported: Path, root: Path, tmp_path: Path
) -> None:
    """After edits, the folder is the one that a fresh import of the same table gives."""
    rows = [row(n, transcript="words" if n < 4 else "") for n in range(8) if n != 1]
    rows[2]["emotion"], rows[4]["audio"] = "sad", "noise.flac"
    table = write_csv(tmp_path / "t.csv", rows)
    edited = again(imported, root)
    fresh = run(table, root, tmp_path / "fresh")
    assert shard_bytes(imported) == shard_bytes(tmp_path / "fresh")
    assert list_names(str(imported)) == list_names(str(tmp_path / "fresh"))
    assert as_dict(edited) == as_dict(fresh) | {"num_written": 1}


def test_a_file_with_new_content_changes_its_shard(imported: Path, root: Path) -> None:
    """The content decides: the same name with other bytes gives another shard."""
    before = states(imported)
    (root / "2.flac").write_bytes((root / "7.flac").read_bytes())
    assert again(imported, root).num_written == 1
    assert len(before.items() & states(imported).items()) == 1
    (sample,) = [found for found in samples(imported) if found.key == "clip-2"]
    assert sample.audio == (root / "7.flac").read_bytes()


def test_a_storage_that_failed_is_asked_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that could not be read comes in with the next import, though it has not changed."""

    def fail(url: str, *, max_bytes: int) -> bytes:
        raise OSError(5, "Input/output error")

    table = write_csv(tmp_path / "t.csv", [row(0)])
    with monkeypatch.context() as patched:
        patched.setattr(preparing, "read_bytes", fail)
        assert run(table, root, tmp_path / "out").rejected == {"unreadable_file": 1}
    assert shard_bytes(tmp_path / "out") == {}
    assert run(table, root, tmp_path / "out").num_imported == 1


@pytest.mark.parametrize("lost", ["shard", "facts", "both", "damaged facts"])
def test_what_a_killed_import_leaves_is_completed(imported: Path, root: Path, lost: str) -> None:
    """Facts without their shard, a shard without facts, or neither: the folder ends up the same."""
    expected = shard_bytes(imported)
    (imported / "import-summary.json").unlink()
    for path in sorted(imported.glob("*.tar"))[:1] if lost in ("shard", "both") else []:
        path.unlink()
    for path in imported.glob(".rows-*.parquet") if lost in ("facts", "both") else []:
        # Facts are written first, so a shard without facts was there before the killed import.
        path.unlink()
        (imported / ".import-summary.json.before").write_text('{"shards": []}')
    for path in imported.glob(".rows-*.parquet") if lost == "damaged facts" else []:
        path.write_bytes(path.read_bytes()[:50])
        (imported / ".import-summary.json.before").write_text('{"shards": []}')
    report = again(imported, root)
    assert report.num_written == (1 if lost in ("shard", "both") else 0)
    assert shard_bytes(imported) == expected
    assert list(rejected(imported)) == [5]


def test_an_import_of_the_last_release_is_replaced(imported: Path, root: Path) -> None:
    """Shards with a running number and the notes beside them go, and are not called foreign."""
    expected = list_names(str(imported))
    for name in ("shard-000000-0123456789ab.tar", ".shard-000000-0123456789ab.tar.rejected.json"):
        (imported / name).write_bytes(b"")
    again(imported, root)
    assert list_names(str(imported)) == expected


def test_shards_may_lie_on_a_remote_storage(root: Path, tmp_path: Path) -> None:
    """A folder in fsspec's memory gets the same shards, and they are recognized there."""
    table = write_csv(tmp_path / "t.csv", [row(n) for n in range(4)])
    config = ImportConfig(table=str(table), root=str(root), out="memory://import-identity")
    report = import_table(config)
    assert report.shards == run(table, root, tmp_path / "out").shards
    assert import_table(config).num_written == 0
    with open_ranged(f"{config.out}/{report.shards[0]}") as reader:
        assert len(index_shard(reader).entries) == 4


# Cutting.


def planned(sizes: list[int]) -> list[PlannedRow]:
    return [
        PlannedRow(number, f"clip-{number}", ("flac",), size, (), 0, f"{number:064x}")
        for number, size in enumerate(sizes)
    ]


def cut(rows: list[PlannedRow], tmp_path: Path) -> list[tuple[str, ...]]:
    config = ImportConfig(table="t.csv", root=str(tmp_path), out="out", shard_size_mb=1)
    return [tuple(row.key for row in shard.rows) for shard in cut_rows(rows, config)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2 * MIB), max_size=60))
def test_shards_have_every_row_once_and_allowed_sizes(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """Rows keep their order, and a shard over the limit is one large row alone."""
    folder = tmp_path_factory.getbasetemp()
    shards = cut(planned(sizes), folder)
    assert [key for shard in shards for key in shard] == [row.key for row in planned(sizes)]
    for shard in shards:
        held = [sizes[int(key.removeprefix("clip-"))] for key in shard]
        assert len(held) == 1 or sum(held) <= 1.5 * MIB
        assert held


def test_an_inserted_or_deleted_row_moves_few_cuts(tmp_path: Path) -> None:
    """Of 59 shards, mostly one changes, and never more than 6.

    Filling each shard up to the target size would change half of them on average.
    """
    sizes = np.random.default_rng(5).integers(20_000, 60_000, 1600)
    rows = planned(sizes.tolist())
    before = cut(rows, tmp_path)
    changed = []
    for place in range(3, 1600, 16):
        deleted = rows[:place] + rows[place + 1 :]
        new = PlannedRow(0, f"new-{place}", ("flac",), 40_000, (), 0, "f" * 64)
        inserted = [*rows[:place], new, *rows[place:]]
        for edited in (deleted, inserted):
            changed += [len(set(cut(edited, tmp_path)) - set(before))]
    assert len(before) == 59
    assert np.median(changed) == 1
    assert max(changed) <= 6
