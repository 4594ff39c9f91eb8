"""Recordings get the answers that `emostream evaluate` gives, and every one of them gets a row."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.predicting.answering import windows_of
from actors.predicting.config import PredictConfig
from actors.predicting.needs import needs_of
from actors.predicting.recognizers import PieceRecognizer
from actors.predicting.shard import predict_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import ShardOpened, ShardReader
from actors.work.task import ShardOutcome, ShardProgress, ShardTask
from shards.config import ConfigError
from shards.loading.index import read_index
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.tables.recordings import read_recordings
from tests.trainers.models.test_recognizer import make as make_recognizer
from tests.worlds.training import write_training_world
from trainers.evaluation.predicting import load_recognizer
from trainers.evaluation.predicting import predict as predict_index
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.personal.adapted_encoder import ORIGINAL_NAME, save_encoder

# Without a quantizer: the untrained codes are all alike.
PREFIX = {"extractor": {"code_width": 8, "num_prefixes": 2, "quantized": False}}


def write_checkpoint(folder: Path, fusion: str = "none", **options: Any) -> str:
    make_recognizer(fusion, **options).save_pretrained(folder)
    return str(folder)


def write_embeddings_checkpoint(folder: Path) -> str:
    """Write a recognizer that knows two speakers, one of whom is in the test split."""
    torch.manual_seed(2)
    options = {"speakers": ["test-1", "somebody"], "speaker_vector_width": 16}
    model = make_recognizer("none", **options)
    assert model.speakers is not None
    model.speakers.table.weight.data.normal_()
    model.speakers.vectors.normal_()
    model.save_pretrained(folder)

    original = SequenceEncoder(SequenceEncoderConfig(hidden_size=16, num_hidden_layers=1))
    save_encoder(LayerwiseEncoder(original), folder / ORIGINAL_NAME)
    return str(folder)


def predict_alone(config: PredictConfig, task: ShardTask) -> ShardOutcome:
    """Make the table of a shard in this process and without Ray."""
    recognizer = PieceRecognizer(config.checkpoint)
    recognizer.setup(1)

    media = MediaConfig(max_audio_seconds=config.max_seconds)
    opened, *chunks = ShardReader(media, needs_of(recognizer)).read(task.url)
    assert isinstance(opened, ShardOpened)
    utterances = [one for chunk in chunks if isinstance(chunk, list) for one in chunk]

    progress = ShardProgress()
    outcome = predict_shard(
        task,
        recognizer,
        config,
        utterances,
        opened.num_utterances,
        shard_error=opened.error,
        progress=progress,
    )
    assert outcome.num_utterances == progress.num_utterances == len(utterances)
    return outcome


def predicted(checkpoint: str, shard: str, out: Path, **options: Any) -> list[dict[str, Any]]:
    """The rows of a shard's table, features included."""
    config = PredictConfig(
        checkpoint=checkpoint, shards=shard, out="x.csv", speakers="x", pldc="mu", **options
    )
    task = ShardTask(
        url=shard, name="shard.tar", size=0, version="", table_url=str(out), maker="test"
    )
    predict_alone(config, task)
    return read_recordings(str(out)).to_pylist()


def scores(rows: list[dict[str, Any]]) -> list[list[float]]:
    return [[row[name] for name in row if name.startswith("score_")] for row in rows]


@pytest.mark.parametrize("kind", ["none", "prefix", "embeddings"])
def test_answers_are_those_of_an_evaluation(kind: str, tmp_path: Path) -> None:
    """A plain model, one with sets and one with embeddings answer as `evaluate` has them answer."""
    write_training_world(tmp_path / "shards")
    shards = f"{tmp_path}/shards/test-000000.tar"
    if kind == "embeddings":
        checkpoint = write_embeddings_checkpoint(tmp_path / "best")
    else:
        options = PREFIX if kind == "prefix" else {}
        checkpoint = write_checkpoint(tmp_path / "best", kind, **options)

    rows = predicted(checkpoint, shards, tmp_path / "out.parquet", set_size=4, seed=5)
    index = read_index(shards)
    expected = predict_index(load_recognizer(checkpoint), index, set_size=4, seed=5)

    assert [row["key"] for row in rows] == index.keys(np.arange(len(index)))
    assert [row["speaker"] for row in rows] == index.table["speaker"].to_pylist()
    np.testing.assert_allclose(scores(rows), expected.scores, atol=1e-5)
    np.testing.assert_allclose([row["features"] for row in rows], expected.features, atol=1e-4)
    assert np.std(expected.scores, axis=0).min() > 1e-4


def test_windows_of_a_personalized_model_make_sets(tmp_path: Path) -> None:
    """Windows are pieces of a set like utterances, and every row names its window."""
    write_training_world(tmp_path / "shards")
    checkpoint = write_checkpoint(tmp_path / "best", "prefix", **PREFIX)
    shard = f"{tmp_path}/shards/test-000000.tar"
    rows = predicted(checkpoint, shard, tmp_path / "out.parquet", window=0.1, set_size=4)

    assert len(rows) > 2 * 36
    assert all(row["error"] is None and row["label"] is not None for row in rows)
    first = [row for row in rows if row["key"] == rows[0]["key"]]
    assert [row["start"] for row in first] == [round(0.1 * n, 4) for n in range(len(first))]


@settings(max_examples=200, deadline=None)
@given(st.integers(400, 200_000), st.floats(0.05, 5.0), st.floats(0.02, 1.0))
def test_windows_cover_the_recording(num_samples: int, window: float, share: float) -> None:
    """Windows are `hop` apart and not longer than `window`; all but a tiny rest lies in one."""
    hop = window * share
    found = windows_of(num_samples, window, hop)

    starts = [part.start for part in found]
    assert starts[0] == 0
    assert set(np.diff(starts)) <= {round(hop * SAMPLE_RATE_HZ)}
    assert all(part.stop - part.start <= round(window * SAMPLE_RATE_HZ) for part in found)
    assert num_samples - found[-1].stop < 0.025 * SAMPLE_RATE_HZ
    assert [part.stop for part in found[:-1]].count(num_samples) == 0


def test_windows_by_hand() -> None:
    """25 s in windows of 10 s every 5 s end at 10, 15, 20 and 25 s."""
    second = SAMPLE_RATE_HZ
    assert windows_of(25 * second, 10.0, 5.0) == [
        slice(start * second, (start + 10) * second) for start in (0, 5, 10, 15)
    ]
    assert windows_of(25 * second, 10.0, None)[-1] == slice(20 * second, 25 * second)
    assert windows_of(25 * second, None, None) == [slice(0, 25 * second)]


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    """The error says that nothing was exported there."""
    with pytest.raises(ConfigError, match="no exported model"):
        PieceRecognizer(str(tmp_path / "nothing"))
