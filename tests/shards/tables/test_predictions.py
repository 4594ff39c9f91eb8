"""Prediction tables: what is written is read, with the same bytes every time.

Mixtures are refused.
"""

import contextlib
import dataclasses
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.storage.parquet import METADATA_KEY, count_errors
from shards.storage.ranged_reader import LocalReader
from shards.tables.predictions import (
    FIXED_COLUMNS,
    Prediction,
    distributions,
    load_predictions,
    read_info,
    unfinished_labeling,
    write_predictions,
)
from tests.shards.selection.inputs import INFO, one_hot


def rows(shard: str = "a.tar") -> list[Prediction]:
    """A labeled utterance, one with an objective, and one that could not be read."""
    return [
        Prediction(
            key="first",
            shard=shard,
            offset=0,
            size=2048,
            speaker="ann",
            duration_seconds=1.5,
            text=one_hot("anger"),
            vision=one_hot("fear"),
            transcript="no!",
            emotion="anger",
        ),
        Prediction(
            key="second",
            shard=shard,
            offset=2048,
            size=512,
            objectives={"sentiment": np.array([0.1, 0.2, 0.7])},
        ),
        Prediction(
            key="third", shard=shard, offset=2560, size=512, error="corrupt_audio: flac: broken"
        ),
    ]


def write(folder: Path, name: str, *, shard: str = "a.tar", **changes: object) -> Path:
    path = folder / name
    values = {"shard": shard, "shard_url": f"/corpus/{shard}", "num_rows": 3} | changes
    info = dataclasses.replace(INFO, **values)  # type: ignore[arg-type]
    write_predictions(str(path), rows(shard), info)
    return path


def test_rows_come_back(tmp_path: Path) -> None:
    """Values, nulls and distributions survive, in the columns and types of the contract."""
    write(tmp_path, "a-1.parquet")
    table, infos = load_predictions(str(tmp_path))

    assert table.column_names == list(FIXED_COLUMNS)
    assert table.schema.field("audio").type == pa.list_(pa.float32(), 7)
    assert table["speaker"].to_pylist() == ["ann", None, None]
    assert table["error"].to_pylist() == [None, None, "corrupt_audio: flac: broken"]

    np.testing.assert_array_equal(distributions(table, "text")[0], one_hot("anger"))
    assert np.isnan(distributions(table, "text")[1:]).all()
    assert np.isnan(distributions(table, "audio")).all()
    assert infos == [dataclasses.replace(INFO, num_rows=3)]


def test_objectives_are_columns_where_a_row_has_them(tmp_path: Path) -> None:
    """An objective of the panel is a fixed-width column, null where a row lacks it."""
    table = pq.read_table(write(tmp_path, "a-1.parquet"))
    assert table.schema.field("sentiment").type == pa.list_(pa.float32(), 3)
    assert table["sentiment"].to_pylist()[0] is None
    assert "egemaps" not in table.column_names


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    """A shard that is labeled twice gives the same file."""
    assert (
        write(tmp_path, "a-1.parquet").read_bytes() == write(tmp_path, "a-2.parquet").read_bytes()
    )


def test_an_empty_shard_has_an_empty_table(tmp_path: Path) -> None:
    """A shard that could not be read still has a table, which says why."""
    info = dataclasses.replace(INFO, shard_error="bad_checksum: byte 0")
    write_predictions(str(tmp_path / "a-1.parquet"), [], info)
    table, infos = load_predictions(str(tmp_path))
    assert table.num_rows == 0
    assert infos[0].shard_error == "bad_checksum: byte 0"
    assert distributions(table, "text").shape == (0, 7)


def test_tables_are_sorted_by_shard_and_offset(tmp_path: Path) -> None:
    """Rows are in the order of shards and offsets.

    Names of tables and the order in which they were written do not matter.
    """
    write(tmp_path, "z-1.parquet", shard="a.tar")
    info = dataclasses.replace(INFO, shard="b.tar", shard_url="/corpus/b.tar", num_rows=3)
    write_predictions(str(tmp_path / "a-1.parquet"), rows("b.tar")[::-1], info)
    table, infos = load_predictions(str(tmp_path), ["key", "shard", "offset"])
    assert [info.shard for info in infos] == ["a.tar", "b.tar"]
    assert table["shard"].to_pylist() == ["a.tar"] * 3 + ["b.tar"] * 3
    assert table["offset"].to_pylist() == [0, 2048, 2560] * 2


def test_writers_temporary_files_are_ignored(tmp_path: Path) -> None:
    """Hidden files and other kinds of files in the folder are not tables."""
    write(tmp_path, "a-1.parquet")
    (tmp_path / ".a-2.parquet.tmp-1").write_bytes(b"half")
    (tmp_path / "_a-3.parquet").write_bytes(b"half")
    (tmp_path / "label-summary.json").write_text("{}")
    assert load_predictions(str(tmp_path))[0].num_rows == 3


def test_errors_are_counted_by_code(tmp_path: Path) -> None:
    """A finished table tells its errors and its seconds of audio without being labeled again."""
    assert count_errors(str(write(tmp_path, "a-1.parquet")), remedy="label again") == (
        {"corrupt_audio": 1},
        1.5,
    )


def test_an_info_needs_no_rows(tmp_path: Path) -> None:
    """The footer alone says which shard and panel a table is of."""
    assert read_info(str(write(tmp_path, "a-1.parquet"))) == dataclasses.replace(INFO, num_rows=3)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    """The error names the folder and the command that fills it."""
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match=r"no prediction tables.*emostream label --out"):
            load_predictions(str(folder))


def test_two_tables_for_one_shard_are_refused(tmp_path: Path) -> None:
    """Two tables of one shard are refused, so that no utterance counts twice."""
    write(tmp_path, "a-1.parquet")
    write(tmp_path, "a-2.parquet", shard_version="2")
    with pytest.raises(ConfigError, match=r"got 2 tables of shard 'a.tar'.*emostream label"):
        load_predictions(str(tmp_path))


def test_a_shard_under_two_names_is_refused(tmp_path: Path) -> None:
    """A shard that was labeled under two names is refused.

    For example it was labeled as part of a folder, and as part of the folder above.
    """
    write(tmp_path, "a-1.parquet", shard="a.tar", shard_url="/corpus/part-7/a.tar")
    write(tmp_path, "a-2.parquet", shard="part-7/a.tar", shard_url="/corpus/part-7/a.tar")
    with pytest.raises(ConfigError, match=r"got 2 tables of shard '/corpus/part-7/a.tar'"):
        load_predictions(str(tmp_path))


def test_tables_of_two_panels_are_refused(tmp_path: Path) -> None:
    """Predictions of different models are not mixed; the error counts the tables of each."""
    write(tmp_path, "a-1.parquet")
    write(tmp_path, "b-1.parquet", shard="b.tar", panel_digest="b" * 64)
    with pytest.raises(ConfigError, match=r"2 panels \(1 by aaaaaaaaaaaa, 1 by bbbbbbbbbbbb\)"):
        load_predictions(str(tmp_path))


def test_another_format_version_is_refused(tmp_path: Path) -> None:
    """A table of another format version is refused rather than guessed at."""
    write(tmp_path, "a-1.parquet", format_version=2)
    with pytest.raises(ConfigError, match="got table format 2, expected 1"):
        load_predictions(str(tmp_path))


def test_other_parquet_files_are_refused(tmp_path: Path) -> None:
    """A Parquet file that is no prediction table is refused by its name."""
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "other.parquet")
    with pytest.raises(ConfigError, match=r"other.parquet: not a prediction table"):
        load_predictions(str(tmp_path))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damaged_tables_are_refused(tmp_path: Path, data: st.DataObject) -> None:
    """A changed byte or a cut in a table's columns gives the same values or an error.

    The error names the table.
    """
    path = write(tmp_path, "a-1.parquet")
    whole, _ = load_predictions(str(tmp_path))
    table = bytearray(path.read_bytes())

    # Why not beyond: the footer has no checksum, see the next test.
    columns_end = len(table) - 8 - int.from_bytes(table[-8:-4], "little")
    position = data.draw(st.integers(4, columns_end - 1))
    if data.draw(st.booleans()):
        table[position] ^= data.draw(st.integers(1, 255))
    else:
        table = table[:position]

    path.write_bytes(table)

    with contextlib.suppress(ConfigError):
        assert load_predictions(str(tmp_path))[0].equals(whole)
        return
    with pytest.raises(
        ConfigError, match=r"(?s)a-1.parquet: not a readable Parquet file.*emostream label"
    ):
        load_predictions(str(tmp_path))


def test_a_damaged_footer_never_crashes(tmp_path: Path) -> None:
    """A flipped bit in a footer gives the same rows, or an error with the remedy.

    Parquet gives footers no checksum.
    """
    path = write(tmp_path, "a-1.parquet")
    whole, (rows_written, _) = path.read_bytes(), load_predictions(str(tmp_path))
    begin = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    num_refused = 0

    for position in range(begin, len(whole), 13):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            table, _ = load_predictions(str(tmp_path))
        except ConfigError:
            num_refused += 1
        else:
            assert table.equals(rows_written)

    assert num_refused > 100


def test_a_storage_that_fails_is_not_called_a_damaged_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the network does not tell anybody to remove a table."""
    path = write(tmp_path, "a-1.parquet")

    def fail(self: LocalReader, offset: int, length: int) -> bytes:
        raise OSError("connection reset")

    monkeypatch.setattr(LocalReader, "read_at", fail)
    with pytest.raises(OSError, match="connection reset"):
        read_info(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "no label-summary.json"),
        ("{", "cannot be read"),
        (
            '{"failed": [{"name": "a.tar"}, {"name": "b.tar"}]}',
            r"gave up 2 shards \(a.tar, b.tar\)",
        ),
        ('{"failed": []}', None),
    ],
)
def test_an_unfinished_labeling_is_known(
    tmp_path: Path, content: str | None, reason: str | None
) -> None:
    """A labeling is finished when it has left its summary and given up no shard."""
    if content is not None:
        (tmp_path / "label-summary.json").write_text(content)
    found = unfinished_labeling(str(tmp_path))
    assert (found is None) if reason is None else re.search(reason, str(found))


def test_tables_are_read_from_remote_folders(tmp_path: Path) -> None:
    """Tables behind a URL are read like local tables."""
    info = dataclasses.replace(INFO, num_rows=3)
    write_predictions("memory://predictions-test/a-1.parquet", rows(), info)
    assert load_predictions("memory://predictions-test")[0].num_rows == 3
    assert read_info("memory://predictions-test/a-1.parquet") == info


def test_the_metadata_is_one_documented_key(tmp_path: Path) -> None:
    """A table's schema tells other programs, under one name, what made the table."""
    assert METADATA_KEY in pq.read_schema(write(tmp_path, "a-1.parquet")).metadata
