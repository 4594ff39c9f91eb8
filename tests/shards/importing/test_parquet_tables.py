"""Parquet as libraries write it: every type of text is text, and media may lie in the table."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.config import ConfigError
from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.importing.reading import read_table
from shards.media.audio import decode_audio, encode_flac
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import open_ranged
from shards.tar.reader import index_shard, read_members

FLAC = encode_flac(np.random.default_rng(0).uniform(-0.5, 0.5, 4000).astype(np.float32))
OTHER = encode_flac(np.random.default_rng(1).uniform(-0.5, 0.5, 4000).astype(np.float32))


def run(folder: Path, table: pa.Table) -> ImportReport:
    pq.write_table(table, folder / "t.parquet")
    return import_table(
        ImportConfig(table=str(folder / "t.parquet"), root=str(folder), out=str(folder / "out"))
    )


def samples(folder: Path) -> dict[str, Sample]:
    found = {}
    for shard in (folder / "out").glob("*.tar"):
        with open_ranged(str(shard)) as reader:
            for entry in index_shard(reader).entries:
                found[entry.key] = parse_sample(entry.key, read_members(reader, entry))
    return found


def reasons(folder: Path) -> dict[str, str]:
    rows = pq.read_table(folder / "out" / "import-rejected.parquet").to_pylist()
    return {row["key"]: row["reason"] for row in rows}


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    ],
    ids=str,
)
def test_every_type_of_text_is_text(tmp_path: Path, kind: pa.DataType) -> None:
    """The same texts give the same samples, whatever type a library has stored them in."""
    table = pa.table(
        {
            "key": pa.array(["a", "b"], kind),
            "transcript": pa.array(["yes", None], kind),
            "speaker": pa.array([None, "007"], kind),
            "audio": pa.array([None, "1.flac"], kind),
        }
    )
    (tmp_path / "1.flac").write_bytes(FLAC)
    assert run(tmp_path, table).rejected == {}
    found = samples(tmp_path)
    assert (found["a"].transcript, found["a"].speaker) == ("yes", None)
    assert (found["b"].audio, found["b"].speaker) == (FLAC, "007")


def test_text_within_structs_and_lists_is_text(tmp_path: Path) -> None:
    """Views inside of other types are read too, and arrive in the json."""
    nested = pa.struct([("age", pa.int16()), ("tongue", pa.string_view())])
    table = pa.table(
        {
            "key": ["a"],
            "transcript": ["yes"],
            "demographics": pa.array([{"age": 30, "tongue": "es"}], nested),
            "raters": pa.array([["x", "y"]], pa.large_list(pa.string_view())),
        }
    )
    run(tmp_path, table)
    assert samples(tmp_path)["a"].metadata == {
        "demographics": {"age": 30, "tongue": "es"},
        "raters": ["x", "y"],
    }


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()], ids=str)
def test_media_in_the_table_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    """Structs {bytes, path} as Hugging Face writes them: the bytes become the sample's file, whose
    extension the path tells, or else the bytes; a path alone is a file below --root.
    """
    (tmp_path / "there.flac").write_bytes(OTHER)
    cells: list[dict[str, Any] | None] = [
        {"bytes": FLAC, "path": "some/where.FLAC"},
        {"bytes": OTHER, "path": None},
        {"bytes": None, "path": "there.flac"},
        {"bytes": b"", "path": "nothing.flac"},
        {"bytes": b"none of the known kinds", "path": "sound"},
        {"bytes": None, "path": None},
        None,
    ]
    audio = pa.array(cells, pa.struct([("bytes", kind), ("path", pa.string())]))
    report = run(tmp_path, pa.table({"clip": list("abcdefg"), "audio": audio}))
    found = samples(tmp_path)
    assert {key: (sample.audio_format, sample.audio) for key, sample in found.items()} == {
        "a": ("flac", FLAC),
        "b": ("flac", OTHER),
        "c": ("flac", OTHER),
    }
    assert {key: reason.partition(":")[0] for key, reason in reasons(tmp_path).items()} == {
        "d": "empty_file",
        "e": "unknown_extension",
        "f": "no_media",
        "g": "no_media",
    }
    assert report.num_rows == 7


def test_a_part_of_media_in_the_table_is_cut(tmp_path: Path) -> None:
    """Sound in the table is cut by `start` and `end` as a file is."""
    media = [{"bytes": FLAC, "path": "long.flac"}] * 2
    rows = {"key": ["a", "b"], "audio": media, "start": [0.0, 0.1], "end": [0.05, None]}

    assert run(tmp_path, pa.table(rows)).rejected == {}

    whole = decode_audio(FLAC)
    found = {key: decode_audio(sample.audio or b"") for key, sample in samples(tmp_path).items()}
    np.testing.assert_allclose(found["a"], whole[:800], atol=2e-5)
    np.testing.assert_allclose(found["b"], whole[1600:], atol=2e-5)


def test_bytes_alone_are_media(tmp_path: Path) -> None:
    """A column of bytes needs no struct; face features are recognized too."""
    np.save(tmp_path / "f.npy", np.ones((2, 3), np.float32))
    face = (tmp_path / "f.npy").read_bytes()
    run(tmp_path, pa.table({"clip": ["a", "b"], "audio": [FLAC, OTHER], "face": [face, face]}))
    found = samples(tmp_path)
    assert (found["a"].audio, found["b"].audio) == (FLAC, OTHER)
    assert found["a"].face_features is not None
    assert found["a"].face_features.tolist() == [[1, 1, 1], [1, 1, 1]]


def test_other_bytes_in_the_table_are_another_shard(tmp_path: Path) -> None:
    """Shards are named after the media in the table, and only what has changed is written again."""
    tables = [pa.table({"clip": ["a"], "audio": [sound]}) for sound in (FLAC, FLAC, OTHER)]
    reports = [run(tmp_path, table) for table in tables]
    assert [report.num_written for report in reports] == [1, 0, 1]
    assert samples(tmp_path)["a"].audio == OTHER


def test_speakers_and_keys_are_composed(tmp_path: Path) -> None:
    """A name with the accent apart (NFD) is that with the accent in the letter (NFC)."""
    table = pa.table(
        {
            "clip": ["a\u0301", "\u00e1", "b"],
            "transcript": ["x"] * 3,
            "speaker": ["Zoe\u0308", "y", "Zo\u00eb"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    rows = read_table(str(tmp_path / "t.parquet")).rows
    assert rows["clip"].to_pylist() == ["\u00e1", "\u00e1", "b"]
    assert rows["speaker"].to_pylist() == ["Zo\u00eb", "y", "Zo\u00eb"]
    assert run(tmp_path, table).rejected == {"duplicate_key": 1}


def test_a_numbered_corpus_in_a_dictionary_column(tmp_path: Path) -> None:
    """Numbers are keys also where the writer has stored them as a dictionary."""
    keys = pa.array([7, 12], pa.int64()).dictionary_encode()
    run(tmp_path, pa.table({"key": keys, "transcript": ["x", "y"]}))
    assert set(samples(tmp_path)) == {"7", "12"}


def test_columns_of_one_name_are_refused_by_name(tmp_path: Path) -> None:
    """Which of two columns is meant cannot be known."""
    pq.write_table(
        pa.table([["a"], ["b"], ["c"]], names=["key", "audio", "audio"]), tmp_path / "t.parquet"
    )
    with pytest.raises(ConfigError, match=r"share a name \(audio\)"):
        read_table(str(tmp_path / "t.parquet"))
