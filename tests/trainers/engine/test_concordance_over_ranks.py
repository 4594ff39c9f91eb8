"""The concordance of a step is that of all its utterances, however many processes share them."""

from pathlib import Path
from typing import Any

import pytest

from shards.config_values import from_mapping
from tests.trainers.engine.processes import finish, losses, start
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.training import run_training


def values(shards: str, out: Path) -> dict[str, Any]:
    """Options of a run on values, whose steps have four batches of few utterances."""
    steps = {"num_steps": 3, "batches_per_step": 4, "validate_every": 3, "checkpoint_every": 3}
    options = small_values(shards, out, "finetune", **steps)
    options["data"]["target"] = {"kind": "values", "values": ["arousal"]}
    return options


def test_one_and_two_processes_draw_one_curve(tmp_path: Path) -> None:
    """Loss by loss: a concordance of each process's own batches would be another number."""
    shards = write_training_world(tmp_path / "packed")
    run_training(from_mapping(TrainConfig, values(shards, tmp_path / "one")))
    finish(start(values(shards, tmp_path / "two"), tmp_path, workers=2))

    alone, shared = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert sorted(alone) == [1, 2, 3]
    assert len(set(alone.values())) == 3
    assert shared == pytest.approx(alone, rel=1e-4)
    for name in ("validation_ccc", "validation_speaker_ccc"):
        assert losses(tmp_path / "two", name) == pytest.approx(
            losses(tmp_path / "one", name), abs=1e-4
        )
