"""Import: every row ends in a shard or among the rejected rows.

The bytes depend on the input alone, and an interrupted import can go on.
"""

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.errors import BadSample
from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.importing.plan import tar_key
from shards.media.audio import encode_flac
from shards.samples.keys import key_problem
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import open_ranged
from shards.tar.reader import index_shard, read_members

COLUMNS = ("clip", "audio", "face", "transcript", "speaker", "emotion", "duration_seconds", "take")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of eight recordings with face features."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number in range(8):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 4000).astype(np.float32)
        (folder / f"{number}.flac").write_bytes(encode_flac(noise))
        np.save(folder / f"{number}.npy", np.full((3, 4), number, dtype=np.float32))
    return folder


def row(number: int, **changes: Any) -> dict[str, Any]:
    """Row `number` of a good table, with some changed cells."""
    cells = {
        "clip": f"clip-{number}",
        "audio": f"{number}.flac",
        "face": f"{number}.npy",
        "transcript": f"words {number}",
        "speaker": f"00{number % 3}",
        "emotion": "happy",
        "duration_seconds": "0.25",
        "take": "1e5",
    }

    return cells | changes


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def run(table: Path, root: Path, out: Path, **options: Any) -> ImportReport:
    return import_table(ImportConfig(table=str(table), root=str(root), out=str(out), **options))


def samples(out: Path) -> list[Sample]:
    found = []
    for shard in sorted(out.glob("*.tar")):
        with open_ranged(str(shard)) as reader:
            index = index_shard(reader)
            assert index.error is None
            found.extend(
                parse_sample(entry.key, read_members(reader, entry)) for entry in index.entries
            )
    return found


def rejected(out: Path) -> dict[int, str]:
    return {
        item["row"]: item["reason"]
        for item in pq.read_table(out / "import-rejected.parquet").to_pylist()
    }


def shard_bytes(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


def test_a_row_becomes_a_sample(root: Path, tmp_path: Path) -> None:
    """Files, transcript and all other columns arrive; CSV cells stay text, except the duration."""
    report = run(
        write_csv(tmp_path / "t.csv", [row(number) for number in range(8)]), root, tmp_path / "out"
    )

    assert (report.num_imported, report.num_rejected) == (8, 0)
    # Why 1e5 as a take: a cell that looks like a number has to stay text.
    for number, sample in enumerate(samples(tmp_path / "out")):
        assert sample.key == f"clip-{number}"
        assert sample.audio == (root / f"{number}.flac").read_bytes()
        assert sample.face_features is not None
        np.testing.assert_array_equal(sample.face_features, np.full((3, 4), number))
        assert sample.transcript == f"words {number}"
        expected = {
            "speaker": f"00{number % 3}",
            "emotion": "happy",
            "duration_seconds": 0.25,
            "take": "1e5",
        }
        assert sample.metadata == expected


def test_a_duration_that_the_table_lacks_is_measured(root: Path, tmp_path: Path) -> None:
    """Sound of 4,000 samples lasts 0.25 s; a stated duration stays, and no check measures none."""
    rows = [row(0, duration_seconds=""), row(1, duration_seconds="9")]
    table = write_csv(tmp_path / "t.csv", [*rows, row(2, audio="", duration_seconds="")])
    for check, measured in (("header", 0.25), ("none", None)):
        run(table, root, tmp_path / check, check=check)
        found = {one.key: one.metadata.get("duration_seconds") for one in samples(tmp_path / check)}
        assert found == {"clip-0": measured, "clip-1": 9.0, "clip-2": None}


def test_a_table_without_rows_is_refused(root: Path, tmp_path: Path) -> None:
    """A header alone is no corpus: whatever made the table found nothing."""
    with pytest.raises(ConfigError, match="without rows"):
        run(write_csv(tmp_path / "t.csv", []), root, tmp_path / "out")


def test_parquet_cells_keep_their_types(root: Path, tmp_path: Path) -> None:
    """Numbers and nested vote counts come through as they are; null is left out."""
    ratings = {"voice": {"happiness": 3}}
    cells = {
        "key": "a",
        "audio": "0.flac",
        "speaker": "s",
        "session": 7,
        "ratings": ratings,
        "language": None,
    }

    pq.write_table(pa.Table.from_pylist([cells]), tmp_path / "t.parquet")
    run(tmp_path / "t.parquet", root, tmp_path / "out")
    (sample,) = samples(tmp_path / "out")
    measured = {"duration_seconds": 0.25}
    assert sample.metadata == {"speaker": "s", "session": 7, "ratings": ratings} | measured


def test_the_options_lie_beside_the_shards(root: Path, tmp_path: Path) -> None:
    """import.yaml repeats the very same import."""
    run(write_csv(tmp_path / "t.csv", [row(0)]), root, tmp_path / "out", check="decode")
    saved = from_mapping(
        ImportConfig, yaml.safe_load((tmp_path / "out" / "import.yaml").read_text())
    )
    assert saved == ImportConfig(
        table=str(tmp_path / "t.csv"), root=str(root), out=str(tmp_path / "out"), check="decode"
    )


def test_whole_numbers_are_keys(root: Path, tmp_path: Path) -> None:
    """A Parquet table may number its rows; a row without a number has no key."""
    pq.write_table(
        pa.table({"key": [7, None, 12], "audio": ["0.flac", "1.flac", "2.flac"]}),
        tmp_path / "t.parquet",
    )
    report = run(tmp_path / "t.parquet", root, tmp_path / "out")
    assert [sample.key for sample in samples(tmp_path / "out")] == ["7", "12"]
    assert report.rejected == {"no_key": 1}


def test_imported_and_rejected_are_all_rows(root: Path, tmp_path: Path) -> None:
    """Each kind of bad row is rejected with its place and reason, and costs no other row."""
    (root / "empty.flac").write_bytes(b"")
    (root / "noise.flac").write_bytes(b"no sound at all" * 20)
    (root / "object.npy").write_bytes((root / "0.npy").read_bytes()[:60])
    bad = {
        "missing_file": row(0, clip="a", audio="nowhere.flac"),
        "empty_file": row(0, clip="b", audio="empty.flac"),
        "path_outside_root": row(0, clip="c", audio="../elsewhere/0.flac"),
        "unknown_extension": row(0, clip="d", audio="0.npy"),
        "unknown_audio_format": row(0, clip="e", audio="noise.flac"),
        "bad_features": row(0, clip="f", face="object.npy"),
        "no_key": row(0, clip=""),
        "duplicate_key": row(0, clip="clip-0"),
        "no_media": row(0, clip="g", audio="", face="", transcript=""),
        "bad_metadata": row(0, clip="h", duration_seconds="long"),
    }
    table = write_csv(tmp_path / "t.csv", [row(0), *bad.values(), row(1)])

    report = run(table, root, tmp_path / "out")

    reasons = rejected(tmp_path / "out")
    assert report.num_rows == report.num_imported + report.num_rejected == 12
    assert sorted(reasons) == list(range(1, 11))
    assert [reasons[place].split(":")[0] for place in sorted(reasons)] == list(bad)
    assert [sample.key for sample in samples(tmp_path / "out")] == ["clip-0", "clip-1"]


def test_absolute_paths_below_the_root_are_taken(root: Path, tmp_path: Path) -> None:
    """A full path gives the same shard as the path below --root, also where --root is a link; one
    that leads elsewhere is refused.
    """
    link = tmp_path / "link"
    link.symlink_to(root, target_is_directory=True)
    (tmp_path / "other.flac").write_bytes((root / "0.flac").read_bytes())
    outside = row(1, audio=str(tmp_path / "other.flac"))
    names = set()
    for number, (audio, folder) in enumerate(
        [("0.flac", root), (str(root / "0.flac"), root), (str(root / "0.flac"), link)]
    ):
        table = write_csv(tmp_path / "t.csv", [row(0, audio=audio), outside])
        report = run(table, folder, tmp_path / f"out-{number}")
        assert report.rejected == {"path_outside_root": 1}
        names.add(report.shards)
    assert len(names) == 1


def test_bytes_do_not_depend_on_the_number_of_workers(root: Path, tmp_path: Path) -> None:
    """One worker and three write the same shards under the same names."""
    table = write_csv(
        tmp_path / "t.csv",
        [row(number, face="") for number in range(8)] + [row(9, audio="0.flac", face="")],
    )
    run(table, root, tmp_path / "one", num_workers=1)
    run(table, root, tmp_path / "three", num_workers=3)
    assert shard_bytes(tmp_path / "one") == shard_bytes(tmp_path / "three")


def test_samples_of_a_shard_have_the_same_fields(root: Path, tmp_path: Path) -> None:
    """A row without a transcript goes to another shard than those with one."""
    table = write_csv(
        tmp_path / "t.csv", [row(n, transcript="" if n % 2 else "words") for n in range(6)]
    )
    report = run(table, root, tmp_path / "out")

    assert report.num_shards == 2

    for shard in (tmp_path / "out").glob("*.tar"):
        with open_ranged(str(shard)) as reader:
            fields = {
                tuple(m.extension for m in entry.members) for entry in index_shard(reader).entries
            }
        assert len(fields) == 1


def test_an_interrupted_import_goes_on(root: Path, tmp_path: Path) -> None:
    """Only the missing shard is written again.

    A finished import writes no shard and gives the same report.
    """
    rows = [
        row(n, transcript=t, audio=f"{n}.flac" if n < 5 else "noise.flac")
        for n in range(6)
        for t in [f"w{n}" * (n % 2)]
    ]
    (root / "noise.flac").write_bytes(b"no sound at all" * 20)

    table = write_csv(tmp_path / "t.csv", rows)
    first = run(table, root, tmp_path / "out")
    expected = shard_bytes(tmp_path / "out")
    assert run(table, root, tmp_path / "out") == ImportReport(
        **{**as_dict(first), "num_written": 0}
    )

    lost = sorted(expected)[0]
    (tmp_path / "out" / lost).unlink()
    (tmp_path / "out" / "import-summary.json").unlink()
    (tmp_path / "out" / ".shard.tar.tmp-12ab").write_bytes(b"half a shard")

    again = run(table, root, tmp_path / "out")
    assert again == ImportReport(**{**as_dict(first), "num_written": 1})
    assert shard_bytes(tmp_path / "out") == expected
    assert not list((tmp_path / "out").glob(".*.tmp-*"))


def test_a_lost_shard_is_written_again(root: Path, tmp_path: Path) -> None:
    """An import is not finished any more when one of its shards is gone."""
    table = write_csv(tmp_path / "t.csv", [row(0)])
    run(table, root, tmp_path / "out")
    expected = shard_bytes(tmp_path / "out")
    for name in expected:
        (tmp_path / "out" / name).unlink()
    assert run(table, root, tmp_path / "out").num_written == 1
    assert shard_bytes(tmp_path / "out") == expected


def test_a_longer_table_writes_what_is_new(root: Path, tmp_path: Path) -> None:
    """Unchanged shards are left alone, so that they are not labeled again.

    Their rejected rows stay known.
    """
    (root / "noise.flac").write_bytes(b"no sound at all" * 20)
    silent = [
        row(n, transcript="", audio="noise.flac" if n == 1 else f"{n}.flac") for n in range(3)
    ]
    spoken = [row(n) for n in range(4, 6)]

    run(write_csv(tmp_path / "t.csv", silent + spoken[:1]), root, tmp_path / "out")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}

    report = run(
        write_csv(tmp_path / "t.csv", spoken[1:] + silent + spoken[:1]), root, tmp_path / "out"
    )

    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.tar")}
    assert (report.num_written, report.num_shards) == (1, 2)
    assert len(before.items() & after.items()) == 1
    assert list(rejected(tmp_path / "out")) == [2]


def test_a_row_that_names_another_file_changes_its_shard(root: Path, tmp_path: Path) -> None:
    """A corrected table is another table, even if its files have the same size and time.

    Such files are told apart by their paths.
    """
    for number in range(2):
        os.utime(root / f"{number}.npy", (1e9, 1e9))
    assert (root / "0.npy").stat().st_size == (root / "1.npy").stat().st_size
    run(
        write_csv(tmp_path / "t.csv", [row(0, face="1.npy"), row(1, face="0.npy")]),
        root,
        tmp_path / "out",
    )

    run(write_csv(tmp_path / "t.csv", [row(0), row(1)]), root, tmp_path / "out")

    faces = [sample.face_features for sample in samples(tmp_path / "out")]
    assert [face[0, 0] for face in faces if face is not None] == [0.0, 1.0]


def test_changed_reasons_are_reported(root: Path, tmp_path: Path) -> None:
    """The same shards with other rejected rows give another report."""
    run(
        write_csv(tmp_path / "t.csv", [row(0), row(1, audio="nowhere.flac")]),
        root,
        tmp_path / "out",
    )
    report = run(write_csv(tmp_path / "t.csv", [row(0), row(1, clip="")]), root, tmp_path / "out")
    assert report.rejected == {"no_key": 1}
    assert rejected(tmp_path / "out")[1].startswith("no_key")


def test_spaces_around_csv_cells_say_nothing(root: Path, tmp_path: Path) -> None:
    """Spaces around a CSV cell do not matter.

    A speaker is one speaker, and a column one column, whatever a spreadsheet left around them.
    """
    table = tmp_path / "t.csv"
    table.write_text("clip, audio , speaker,emotion\na, 0.flac,bob ,happy\nb,1.flac , bob,sad\n")
    import_table(ImportConfig(table=f"file://{table}", root=str(root), out=str(tmp_path / "out")))
    assert [(found.key, found.metadata["speaker"]) for found in samples(tmp_path / "out")] == [
        ("a", "bob"),
        ("b", "bob"),
    ]


def test_the_root_may_be_here(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--root .` is a folder like any other, and paths that leave it are refused."""
    monkeypatch.chdir(root)
    table = write_csv(
        tmp_path / "t.csv", [row(0), row(1, audio="../recordings2/1.flac"), row(2, audio="..")]
    )
    for number, here in enumerate((".", "./", "../recordings/.")):
        report = import_table(
            ImportConfig(table=str(table), root=here, out=str(tmp_path / f"out-{number}"))
        )
        assert (report.num_imported, report.rejected) == (1, {"path_outside_root": 2})


def as_dict(report: ImportReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__slots__}


def test_a_changed_file_changes_its_shard_and_the_old_one_goes(root: Path, tmp_path: Path) -> None:
    """Shards of an older table are removed when the new import is complete."""
    table = write_csv(tmp_path / "t.csv", [row(number) for number in range(4)])
    run(table, root, tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    (root / "2.flac").write_bytes((root / "5.flac").read_bytes())
    run(table, root, tmp_path / "out")
    after = shard_bytes(tmp_path / "out")
    assert len(after) == len(before) == 1
    assert after.keys() != before.keys()


def test_a_folder_with_other_shards_is_refused(root: Path, tmp_path: Path) -> None:
    """A folder with other shards is refused, as `label` would label them too."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.tar").write_bytes(b"")
    with pytest.raises(ConfigError, match="something else"):
        run(write_csv(tmp_path / "t.csv", [row(0)]), root, out)
    assert [path.name for path in out.iterdir()] == ["mine.tar"]


def test_a_target_size_cuts_shards(root: Path, tmp_path: Path) -> None:
    """Shards hold about the target size, each in table order."""
    big = np.random.default_rng(0).uniform(-1, 1, 400_000).astype(np.float32)
    for number in range(4):
        (root / f"{number}.flac").write_bytes(encode_flac(big))
    table = write_csv(tmp_path / "t.csv", [row(number) for number in range(4)])
    report = run(table, root, tmp_path / "out", shard_size_mb=1)
    assert report.num_shards == 4
    assert {sample.key for sample in samples(tmp_path / "out")} == {
        f"clip-{number}" for number in range(4)
    }


@given(st.text(max_size=40))
def test_any_name_becomes_a_usable_key_or_a_reason(name: str) -> None:
    """Any name in a table becomes a key that every reader accepts, or is rejected."""
    try:
        key = tar_key(name)
    except BadSample:
        return
    assert key_problem(key) is None
