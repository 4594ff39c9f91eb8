"""Speaker tables as files: what is written is read, and other files are refused by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.speakers.files import read_speakers, write_speakers
from shards.speakers.table import SpeakerTable
from shards.storage.parquet import METADATA_KEY


def small_table(**changes: Any) -> SpeakerTable:
    table = SpeakerTable(
        speakers=["anna", "bo", "\u00e9mile"],
        vectors=np.asarray([[1, 0], [0, 2], [3, 4]], dtype=np.float32),
        num_utterances=np.asarray([3, 1, 2]),
        dimensions=("arousal",),
        label_mean=np.asarray([[0.5], [np.nan], [0.1]]),
        label_std=np.asarray([[0.2], [np.nan], [0.0]]),
        label_count=np.asarray([[3], [0], [2]]),
        metadata=[{"language": "en"}, {}, {}],
        encoder="spectral",
        fingerprint="spectral:1",
    )
    return replace(table, **changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """All parts of a table come back, also unknown statistics and the footer's extra."""
    url = str(tmp_path / "speakers.parquet")
    write_speakers(url, small_table(), {"generation": 7})
    found, extra = read_speakers(url)

    expected = small_table()

    assert extra == {"generation": 7}
    for name in ("speakers", "dimensions", "metadata", "encoder", "fingerprint"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("vectors", "num_utterances", "label_mean", "label_std", "label_count"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
        assert getattr(found, name).dtype == getattr(expected, name).dtype


def test_speakers_without_labels_are_kept_too(tmp_path: Path) -> None:
    """A table without labels, which is for look-up alone, comes back."""
    url, nothing = str(tmp_path / "speakers.parquet"), np.empty((3, 0))
    labels = {"label_mean": nothing, "label_std": nothing, "label_count": nothing.astype(np.int64)}
    write_speakers(url, small_table(dimensions=(), **labels))
    found, _ = read_speakers(url)
    assert (found.dimensions, found.label_mean.shape, found.label_count.dtype) == (
        (),
        (3, 0),
        np.int64,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speakers": ["anna", "anna", "bo"]}, "'anna' is there 2 times"),
        ({"speakers": ["anna", "bo", ""]}, "expected 1 to 256 printable"),
        ({"speakers": ["anna", "bo", "c\n"]}, "expected 1 to 256 printable"),
        ({"speakers": ["anna", "bo", None]}, "without a name"),
        (
            {"vectors": np.asarray([[1, 0], [0, np.nan], [3, 4]], np.float32)},
            "'bo' is zero or not finite",
        ),
        ({"vectors": np.asarray([[1, 0], [0, 1], [0, 0]], np.float32)}, "is zero or not finite"),
        ({"label_std": np.asarray([[-0.2], [np.nan], [0.0]])}, "negative spread"),
        ({"label_mean": np.asarray([[np.inf], [np.nan], [0.0]])}, "not finite"),
        ({"num_utterances": np.asarray([-1, 1, 2])}, "negative spread or count"),
        ({"dimensions": ("arousal", "valence")}, "statistics have the shapes"),
        ({"metadata": [{"a": "b" * 2000}, {}, {}]}, "text of 2000 characters"),
    ],
)
def test_unusable_tables_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """An unusable table is refused with what is wrong and the remedy."""
    url = str(tmp_path / "speakers.parquet")
    write_speakers(url, small_table(**changes))
    with pytest.raises(ConfigError, match=message) as caught:
        read_speakers(url)
    assert "emostream embed" in str(caught.value)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Another table, another format, a missing column and another type are refused."""
    url = tmp_path / "speakers.parquet"
    pq.write_table(pa.table({"speaker": ["a"]}), url)
    with pytest.raises(ConfigError, match="not a speaker table"):
        read_speakers(str(url))

    write_speakers(str(url), small_table())

    table = pq.read_table(url)
    footer = json.loads(table.schema.metadata[METADATA_KEY])
    for changed, message in (
        ({"format_version": 9}, "format 9, expected 1"),
        ({"kind": "x"}, "not a speaker table"),
    ):
        pq.write_table(
            table.replace_schema_metadata({METADATA_KEY: json.dumps(footer | changed)}), url
        )
        with pytest.raises(ConfigError, match=message):
            read_speakers(str(url))

    for broken in (
        table.drop_columns(["vector"]),
        table.set_column(1, "vector", pa.array([["x"], ["y"], ["z"]])),
        table.set_column(
            1, "vector", pa.array([[1.0, 2.0], None, [1.0, 2.0]], pa.list_(pa.float32(), 2))
        ),
    ):
        pq.write_table(broken, url)
        with pytest.raises(ConfigError, match="not a readable Parquet file"):
            read_speakers(str(url))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damage_anywhere_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    """A flipped byte or a cut gives the very table, or ConfigError.

    It never gives another table or another error.
    """
    url = tmp_path / "speakers.parquet"
    write_speakers(str(url), small_table())

    whole = url.read_bytes()
    place = data.draw(st.integers(0, len(whole) - 1))

    damaged = bytearray(whole)
    if data.draw(st.booleans()):
        damaged[place] ^= data.draw(st.integers(1, 255))
    else:
        del damaged[place:]
    url.write_bytes(bytes(damaged))

    try:
        found, _ = read_speakers(str(url))
    except ConfigError:
        return
    assert found.vectors.tolist() == small_table().vectors.tolist()
