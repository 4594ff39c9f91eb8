"""`data.num_utterances` trains on a part of the labels."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.training import CLASSES, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.evaluation.predicting import utterances_learned
from trainers.recipes.recognition.task import RecognitionTask
from trainers.training import make_task


def task(shards: str, out: Path, **data: Any) -> RecognitionTask:
    values = small_values(shards, out, "finetune")
    values["data"] |= data
    made = make_task(from_mapping(TrainConfig, values), read_index(shards))
    assert isinstance(made, RecognitionTask)
    return made


def keys(made: RecognitionTask) -> set[str]:
    return set(made.train.table["key"].to_pylist())


def test_a_subset_keeps_the_classes_and_is_nested(tmp_path: Path) -> None:
    """Of 36 utterances in three classes, 12 have four of each and are among 24; seeds differ."""
    shards = write_training_world(tmp_path / "world")
    few = task(shards, tmp_path, num_utterances=12)
    more = task(shards, tmp_path, num_utterances=24)

    assert Counter(few.train.table["label"].to_pylist()) == dict.fromkeys(CLASSES, 4)
    assert keys(few) < keys(more)
    assert keys(few) == keys(task(shards, tmp_path, num_utterances=12))
    assert keys(few) != keys(task(shards, tmp_path, num_utterances=12, subset_seed=1))
    # Validation is the whole split, so that sizes are compared on one.
    assert len(few.validation) == len(task(shards, tmp_path).validation)


def test_values_are_drawn_too(tmp_path: Path) -> None:
    """Numbers have no classes whose shares could be kept."""
    shards = write_training_world(tmp_path / "world")
    target = {"kind": "values", "values": ["arousal"]}
    assert len(keys(task(shards, tmp_path, num_utterances=7, target=target))) == 7


def test_calibration_knows_the_utterances_that_were_learned(tmp_path: Path) -> None:
    """PLDC takes the labels of the subset, and not those that the run left out."""
    shards = write_training_world(tmp_path / "world")
    made = task(shards, tmp_path, num_utterances=12, subset_seed=3)
    recognizer = made.build_model().recognizer

    learned = utterances_learned(recognizer, read_index(shards))
    assert set(learned.table["key"].to_pylist()) == keys(made)


def test_a_subset_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """More utterances than there are, none, and known seconds beside it."""
    shards = write_training_world(tmp_path / "world")
    with pytest.raises(ConfigError, match="got 37, but there are 36"):
        task(shards, tmp_path, num_utterances=37)
    with pytest.raises(ConfigError, match="num_utterances"):
        task(shards, tmp_path, num_utterances=0)
    with pytest.raises(ConfigError, match="known_seconds: got both"):
        task(shards, tmp_path, num_utterances=5, known_seconds=1.0)
