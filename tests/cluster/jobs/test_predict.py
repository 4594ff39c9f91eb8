"""`emostream predict` answers for every file, row and sample, in three formats."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile
from numpy.typing import NDArray

from actors.embedding.config import EmbedderConfig, fingerprint
from actors.predicting.config import PredictConfig
from cluster.exit_status import ExitStatus
from cluster.jobs.predict import predict, run_predict
from shards.config import ConfigError
from shards.speakers.files import write_speakers
from shards.speakers.table import SpeakerTable
from tests.actors.predicting.test_predicting import PREFIX, write_checkpoint

RATE_HZ = 16_000
CLASSES = ["neutral", "anger", "happiness"]
SCORES = [f"score_{name}" for name in CLASSES]


def tone(seconds: float, seed: int) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    times = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    noise = 0.02 * rng.standard_normal(len(times))
    return (0.2 * np.sin(2 * np.pi * 150 * (seed + 1) * times) + noise).astype(np.float32)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Make a folder of two speakers with two files each, a damaged file, and a text."""
    folder = tmp_path / "sounds"
    for number in range(4):
        speaker = folder / f"speaker-{number // 2}"
        speaker.mkdir(parents=True, exist_ok=True)
        soundfile.write(speaker / f"{number}.wav", tone(0.5 + 0.2 * number, number), RATE_HZ)
    (folder / "damaged.wav").write_bytes(b"RIFF, but no more than that")
    (folder / "notes.txt").write_text("not a recording")
    return folder


def options(tmp_path: Path, **values: Any) -> PredictConfig:
    checkpoint = tmp_path / "best"
    if not checkpoint.exists():
        write_checkpoint(checkpoint)
    return PredictConfig(
        **{"checkpoint": str(checkpoint), "out": str(tmp_path / "out.parquet"), **values}
    )


def read(path: Path) -> pa.Table:
    if path.suffix == ".csv":
        return pyarrow.csv.read_csv(path)
    if path.suffix == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines()
        return pa.Table.from_pylist([json.loads(line) for line in lines])
    return pq.read_table(path)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_a_folder_becomes_a_row_for_each_file(
    kind: str, sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The damaged file is a row with its reason, and is named; the others have probabilities."""
    out = tmp_path / f"out.{kind}"
    status = run_predict(options(tmp_path, audio=(str(sounds),), out=str(out)))

    assert status == ExitStatus.DAMAGED
    table = read(out)
    assert table.column_names == ["key", "speaker", "start", "end", "label", *SCORES, "error"]

    rows = table.to_pylist()
    assert [Path(row["key"]).name for row in rows] == [
        "damaged.wav", "0.wav", "1.wav", "2.wav", "3.wav"
    ]  # fmt: skip
    assert rows[0]["error"]
    assert rows[0][SCORES[0]] is None
    for number, row in enumerate(rows[1:]):
        assert sum(row[name] for name in SCORES) == pytest.approx(1.0)
        assert row["label"] == CLASSES[int(np.argmax([row[name] for name in SCORES]))]
        assert (row["start"], row["end"]) == (0.0, pytest.approx(0.5 + 0.2 * number))

    printed = capsys.readouterr()
    assert "5 rows" in printed.out
    assert "1 without a prediction" in printed.out
    assert "damaged.wav" in printed.err


def test_a_row_that_is_a_part_is_recognized_as_that_part(tmp_path: Path) -> None:
    """`start` and `end` of a table give what a file of that part alone gives."""
    whole = np.round(tone(2.0, 1) * 2**15) / 2**15
    soundfile.write(tmp_path / "whole.wav", whole, RATE_HZ)
    soundfile.write(tmp_path / "part.wav", whole[RATE_HZ // 2 : RATE_HZ], RATE_HZ)
    (tmp_path / "table.csv").write_text(
        "key,audio,speaker,start,end\n"
        "a,whole.wav,ann,0.5,1.0\n"
        "b,part.wav,ann,,\n"
        "c,missing.wav,ann,,\n"
    )

    a, b, c = predict(options(tmp_path, table=str(tmp_path / "table.csv"), root=str(tmp_path)))
    np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
    assert (a.key, a.speaker, a.start_seconds, a.end_seconds) == ("a", "ann", 0.5, 1.0)
    assert (b.start_seconds, b.end_seconds) == (0.0, 0.5)
    assert c.error is not None
    assert c.error.startswith("missing_file")


def test_a_window_is_recognized_as_a_file_of_its_own(tmp_path: Path) -> None:
    """Windows of 1 s every half second, of 2.2 s, end at 1, 1.5, 2 and 2.2 s."""
    sound = np.round(tone(2.2, 2) * 2**15) / 2**15
    soundfile.write(tmp_path / "long.wav", sound, RATE_HZ)
    soundfile.write(tmp_path / "second.wav", sound[RATE_HZ // 2 : 3 * RATE_HZ // 2], RATE_HZ)

    windows = predict(options(tmp_path, audio=(str(tmp_path / "long.wav"),), window=1.0, hop=0.5))
    (alone,) = predict(options(tmp_path, audio=(str(tmp_path / "second.wav"),)))

    assert [one.end_seconds for one in windows] == [1.0, 1.5, 2.0, 2.2]
    np.testing.assert_allclose(windows[1].scores, alone.scores, atol=1e-6)


def test_a_personalized_model_hears_a_speaker_together(sounds: Path, tmp_path: Path) -> None:
    """The speaker is a name, or the folder; which of the two changes the sets and the answers."""
    write_checkpoint(tmp_path / "best", "prefix", **PREFIX)
    files = tuple(str(path) for path in sorted(sounds.rglob("?.wav")))

    with pytest.raises(ConfigError, match="no recording says who speaks; give --speaker"):
        predict(options(tmp_path, audio=files))

    together = predict(options(tmp_path, audio=files, speaker="ann"))
    apart = predict(options(tmp_path, audio=files, speaker="folder"))
    assert [one.speaker for one in apart] == ["speaker-0"] * 2 + ["speaker-1"] * 2
    assert not np.allclose(together[0].scores, apart[0].scores, atol=1e-7)


def speaker_table(
    checkpoint: str, names: tuple[str, ...] = ("anger", "happiness", "neutral")
) -> SpeakerTable:
    """Make a table of three speakers, the last of whom has no labels."""
    rng = np.random.default_rng(0)
    shape = (3, len(names))
    return SpeakerTable(
        speakers=["x", "y", "z"],
        vectors=rng.standard_normal((3, 32)).astype(np.float32),
        num_utterances=np.full(3, 5),
        dimensions=names,
        label_mean=np.where([[1], [1], [0]], rng.random(shape), np.nan),
        label_std=np.where([[1], [1], [0]], rng.random(shape), np.nan),
        label_count=np.broadcast_to([[5], [5], [0]], shape),
        metadata=[{}] * 3,
        encoder=checkpoint,
        fingerprint=fingerprint(EmbedderConfig(encoder=checkpoint)),
    )


def test_calibration_moves_a_speaker_to_the_labels_of_others(sounds: Path, tmp_path: Path) -> None:
    """With two neighbors of two, each speaker's mean prediction is the mean of their labels."""
    files = tuple(str(path) for path in sorted(sounds.rglob("?.wav")))
    checkpoint = write_checkpoint(tmp_path / "best")
    table = speaker_table(checkpoint)
    write_speakers(str(tmp_path / "speakers.parquet"), table)

    found = predict(
        options(
            tmp_path,
            audio=files,
            speaker="folder",
            speakers=str(tmp_path / "speakers.parquet"),
            pldc="mu",
        )
    )
    expected = table.label_mean[:2].mean(axis=0)[[2, 0, 1]]  # in the order of CLASSES
    for mine in (found[:2], found[2:]):
        np.testing.assert_allclose(np.mean([one.scores for one in mine], axis=0), expected, 1e-5)


def test_a_table_of_another_encoder_is_refused(sounds: Path, tmp_path: Path) -> None:
    """Vectors of another checkpoint, and labels that are not the model's, cannot calibrate."""
    checkpoint = write_checkpoint(tmp_path / "best")
    other = write_checkpoint(tmp_path / "other", head="interpreter")
    values = {
        "audio": (str(sounds),),
        "speaker": "folder",
        "speakers": str(tmp_path / "speakers.parquet"),
        "pldc": "both",
    }

    write_speakers(values["speakers"], speaker_table(other))
    with pytest.raises(ConfigError, match="holds vectors of another encoder"):
        predict(options(tmp_path, **values))

    write_speakers(values["speakers"], speaker_table(checkpoint, ("arousal",)))
    with pytest.raises(ConfigError, match="has labels of arousal, expected neutral"):
        predict(options(tmp_path, **values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "got none, expected one of --audio, --table and --shards"),
        ({"audio": ("a",), "shards": "b"}, "got --audio and --shards"),
        ({"table": "a.csv"}, "--table and --root"),
        ({"audio": ("a",), "out": "x.txt"}, "--out: got x.txt"),
        ({"audio": ("a",), "hop": 1.0}, "--hop: got 1"),
        ({"audio": ("a",), "window": 1.0, "hop": 2.0}, "--hop: got 2 with a window of 1"),
        ({"audio": ("a",), "pldc": "mu"}, "--pldc and --speakers"),
        ({"audio": ("a",), "out": "answers"}, "--out: got answers, expected a file .parquet"),
        ({"shards": "a", "out": "x.txt"}, "write a folder whose name has a dot with a /"),
        (
            {"shards": "a", "out": "answers", "pldc": "mu", "speakers": "b"},
            "got the folder answers with --pldc",
        ),
        ({"audio": ("a",), "num_workers": 2}, "--num-workers: got them without --shards"),
        ({"shards": "a", "speaker": "ann"}, "--speaker: got it without --audio"),
    ],
)
def test_options_that_do_not_go_together(values: dict[str, Any], message: str) -> None:
    """The error names the options."""
    with pytest.raises(ConfigError, match=message):
        PredictConfig(**{"checkpoint": "best", "out": "x.csv", **values})
