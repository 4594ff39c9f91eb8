"""Results of earlier tables are found by content, exactly, and never where they do not belong."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.tables.earlier import EarlierRows, index_results
from shards.tables.predictions import Prediction, read_info, write_predictions
from tests.shards.selection.inputs import INFO, one_hot


def write(path: Path, contents: list[bytes | None]) -> str:
    """A table with one row for each of `contents`; its keys count from 0."""
    rows = [
        Prediction(
            key=str(number), shard="a.tar", offset=0, size=512, audio=one_hot("fear"), content=found
        )
        for number, found in enumerate(contents)
    ]
    write_predictions(str(path), rows, dataclasses.replace(INFO, num_rows=len(rows)))
    return str(path)


def digest(number: int) -> bytes:
    """A digest; every second one ends in zeros, which numpy's fixed texts do not show."""
    return (number.to_bytes(2, "little") * 8) if number % 2 else number.to_bytes(16, "big")[::-1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.none() | st.integers(0, 600), max_size=12), max_size=4))
def test_every_content_leads_to_its_row(
    tmp_path_factory: pytest.TempPathFactory, tables: list[list[int | None]]
) -> None:
    """What is found is the first row of that content, and what is in no table is not found."""
    folder = tmp_path_factory.mktemp("tables")
    first: dict[bytes, tuple[str, int]] = {}
    urls = []
    for number, values in enumerate(tables):
        contents = [None if value is None else digest(value) for value in values]
        urls.append(write(folder / f"{number}.parquet", contents))
        for row, content in enumerate(contents):
            if content is not None:
                first.setdefault(content, (urls[-1], row))

    results = index_results(urls[::-1])

    if results is None:
        assert not first
        return
    for value in range(602):
        assert results.find(digest(value)) == first.get(digest(value))
    shared = pickle.loads(pickle.dumps(results, protocol=5))
    rows = EarlierRows(shared)
    for content, (_, row) in first.items():
        found = rows.find(content)
        assert found is not None
        assert found["key"] == str(row)
        np.testing.assert_array_equal(np.float32(found["audio"]), one_hot("fear"))


def test_tables_of_an_earlier_format_have_no_results(tmp_path: Path) -> None:
    """A table that says nothing of contents, or that cannot be read, is passed over."""
    url = write(tmp_path / "a.parquet", [digest(1)])
    table = pq.read_table(url)
    pq.write_table(table.drop_columns(["content"]), tmp_path / "b.parquet")
    (tmp_path / "c.parquet").write_bytes(b"no table")
    urls = [str(tmp_path / name) for name in ("b.parquet", "c.parquet", "gone.parquet")]
    assert index_results(urls) is None
    assert index_results([]) is None
    results = index_results([*urls, url])
    assert results is not None
    assert results.find(digest(1)) == (url, 0)


def test_a_table_that_changed_since_is_not_trusted(tmp_path: Path) -> None:
    """A row is taken over only if it has the content that was asked for."""
    url = write(tmp_path / "a.parquet", [digest(1), digest(2)])
    results = index_results([url])
    assert results is not None
    write(tmp_path / "a.parquet", [digest(2)])
    assert EarlierRows(results).find(digest(1)) is None
    assert EarlierRows(results).find(digest(2)) is None
    (tmp_path / "a.parquet").unlink()
    assert EarlierRows(results).find(digest(1)) is None


def test_the_place_of_a_row_is_its_place_in_the_file(tmp_path: Path) -> None:
    """Tables of several row groups are counted through."""
    url = write(tmp_path / "a.parquet", [digest(value) for value in range(10)])
    table = pq.read_table(url)
    pq.write_table(table, url, row_group_size=3)
    results = index_results([url])
    assert results is not None
    assert [results.find(digest(value)) for value in range(10)] == [(url, n) for n in range(10)]
    assert read_info(url).num_rows == 10
    assert pa.types.is_fixed_size_binary(table.schema.field("content").type)
