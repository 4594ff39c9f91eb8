"""Twins: found by their bytes among files of one size, named, and left out on request."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.importing.twins import TwinReport, groups_of_twins
from shards.media.audio import encode_flac


def write_files(folder: Path) -> None:
    """Two files of the same bytes, one that differs from them in its middle alone, and another."""
    silence = bytes(100_000)
    for name, middle in (("one", b"a"), ("same", b"a"), ("other", b"b")):
        (folder / f"{name}.flac").write_bytes(silence + middle + silence)
    (folder / "short.flac").write_bytes(silence)


def run(folder: Path, rows: Sequence[Sequence[str]], columns: str, **options: Any) -> ImportReport:
    with (folder / "t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([columns.split(), *rows])
    return import_table(
        ImportConfig(
            table=str(folder / "t.csv"),
            root=str(folder),
            out=str(folder / "out"),
            check="none",
            **options,
        )
    )


def rejected(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "out" / "import-rejected.parquet").to_pylist()
    return {row["key"]: row["reason"] for row in rows}


def test_twins_are_counted_and_named(tmp_path: Path) -> None:
    """Of files of one size, those with the same bytes are twins; all rows come in."""
    write_files(tmp_path)
    rows = [
        ("a", "one.flac", "s1"),
        ("b", "other.flac", "s2"),
        ("c", "same.flac", "s2"),
        ("d", "short.flac", "s3"),
        ("e", "one.flac", "s1"),
        ("f", "short.flac", "s3"),
    ]
    report = run(tmp_path, rows, "clip audio speaker")
    assert report.num_imported == 6
    assert report.remarks.twins == TwinReport(
        num_groups=2,
        num_rows=5,
        num_under_several_speakers=1,
        example=(("a", "s1"), ("c", "s2"), ("e", "s1")),
    )


def test_only_the_first_of_twins_is_imported_on_request(tmp_path: Path) -> None:
    """The others are rejected, with the first one's key and row; a rejected row is no twin."""
    write_files(tmp_path)
    rows = [
        ("", "one.flac", "s0"),
        ("a", "one.flac", "s1"),
        ("b", "other.flac", "s2"),
        ("c", "same.flac", "s2"),
    ]
    report = run(tmp_path, rows, "clip audio speaker", deduplicate=True)
    assert report.rejected == {"duplicate_media": 1, "no_key": 1}
    said = "duplicate_media: the same sound and video as 'a' in row 1"
    assert rejected(tmp_path)["c"] == said
    assert report.num_imported == 2
    assert report.remarks.twins.num_groups == 1


def test_twins_agree_in_all_that_is_seen_and_heard(tmp_path: Path) -> None:
    """The same sound with another video, or another part of it, is another utterance; the same
    media with another transcript are twins.
    """
    write_files(tmp_path)
    for name, content in (("x", b"x"), ("y", b"y")):
        (tmp_path / f"{name}.mp4").write_bytes(content)
    rows = [
        ("a", "one.flac", "x.mp4", "", "words"),
        ("b", "same.flac", "y.mp4", "", "words"),
        ("c", "same.flac", "", "1.5", "words"),
        ("d", "same.flac", "x.mp4", "", "other words"),
        ("e", "same.flac", "", "0", "words"),
    ]
    report = run(tmp_path, rows, "clip audio video start transcript")
    assert report.remarks.twins.example == (("a", None), ("d", None))
    assert report.remarks.twins.num_rows == 2


def test_rows_without_sound_and_video_have_no_twins(tmp_path: Path) -> None:
    """The same words, said by many, are no duplicates."""
    report = run(tmp_path, [("a", "yes"), ("b", "yes")], "clip transcript", deduplicate=True)
    assert report.num_imported == 2
    assert report.remarks.twins == TwinReport(
        num_groups=0, num_rows=0, num_under_several_speakers=0, example=()
    )


def test_media_in_the_table_have_twins_too(tmp_path: Path) -> None:
    """Bytes that lie in the table are compared as files are."""
    sounds = [
        encode_flac(np.random.default_rng(seed).uniform(-0.5, 0.5, 400).astype(np.float32))
        for seed in (0, 1, 0)
    ]
    pq.write_table(pa.table({"clip": list("abc"), "audio": sounds}), tmp_path / "t.parquet")
    report = import_table(
        ImportConfig(
            table=str(tmp_path / "t.parquet"),
            root=str(tmp_path),
            out=str(tmp_path / "out"),
            deduplicate=True,
        )
    )
    assert report.rejected == {"duplicate_media": 1}
    assert list(rejected(tmp_path)) == ["c"]


@given(st.lists(st.integers(0, 5)))
def test_groups_are_those_of_every_pair(digests: list[int]) -> None:
    """Two rows are in one group exactly when their digests are the same; a row alone is in none."""
    groups = groups_of_twins(enumerate(digests))
    together = {(a, b) for group in groups for a in group for b in group if a < b}
    expected = {
        (a, b)
        for a in range(len(digests))
        for b in range(a + 1, len(digests))
        if digests[a] == digests[b]
    }
    assert together == expected
    assert groups == sorted(groups)
    assert all(list(group) == sorted(group) for group in groups)
