"""Import measures what the table does not state, and leaves former shards as they are."""

from pathlib import Path

import numpy as np
import pytest

from shards.importing import writing
from shards.media.audio import encode_flac
from tests.shards.importing.test_job import run, samples, shard_bytes


def write_table(tmp_path: Path, header: str, *rows: str) -> Path:
    """Two recordings of 0.25 and 0.5 s, and a table of them."""
    (tmp_path / "root").mkdir(exist_ok=True)
    for number in (1, 2):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 4000 * number)
        sound = encode_flac(noise.astype(np.float32))
        if not (tmp_path / "root" / f"{number}.flac").exists():
            (tmp_path / "root" / f"{number}.flac").write_bytes(sound)

    table = tmp_path / "table.csv"
    table.write_text("\n".join([header, *rows, ""]))
    return table


def durations(out: Path) -> dict[str, object]:
    return {one.key: one.metadata.get("duration_seconds") for one in samples(out)}


def test_what_the_table_lacks_is_measured(tmp_path: Path) -> None:
    """A stated duration is kept; an empty cell and a missing column are measured."""
    stated = write_table(tmp_path, "clip,audio,duration_seconds", "a,1.flac,9.5", "b,2.flac,")
    run(stated, tmp_path / "root", tmp_path / "stated")
    assert durations(tmp_path / "stated") == {"a": 9.5, "b": 0.5}

    without = write_table(tmp_path, "clip,audio", "a,1.flac", "b,2.flac")
    run(without, tmp_path / "root", tmp_path / "without")
    assert durations(tmp_path / "without") == {"a": 0.25, "b": 0.5}


def test_no_check_opens_no_file(tmp_path: Path) -> None:
    """With --check none, nothing is opened, so nothing is measured."""
    table = write_table(tmp_path, "clip,audio", "a,1.flac", "b,2.flac")
    run(table, tmp_path / "root", tmp_path / "out", check="none")
    assert durations(tmp_path / "out") == {"a": None, "b": None}


def test_former_shards_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of a release that measured nothing is not written again by an import that does."""
    table = write_table(tmp_path, "clip,audio", "a,1.flac", "b,2.flac")
    with monkeypatch.context() as former:
        former.setattr(writing, "measured_length", lambda members: {})
        run(table, tmp_path / "root", tmp_path / "out")
    before = shard_bytes(tmp_path / "out")
    assert durations(tmp_path / "out") == {"a": None, "b": None}

    run(table, tmp_path / "root", tmp_path / "out")
    assert shard_bytes(tmp_path / "out") == before
