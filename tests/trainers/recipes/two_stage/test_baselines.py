"""`train two-stage` with a baseline, and `evaluate` of what it exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cluster.training.evaluate import evaluate
from shards.config import ConfigError
from tests.worlds.rated import rated_config, write_rated_world
from trainers.evaluation.config import EvaluateConfig
from trainers.models.two_stage.loading import load_two_stage
from trainers.recipes.two_stage.config import TwoStageOptions
from trainers.training import run_training


def test_a_baseline_is_trained_and_evaluated(tmp_path: Path) -> None:
    """The loss falls, the export says what it is, and unknown speakers are recognized."""
    shards = write_rated_world(tmp_path / "shards")
    run_training(rated_config(shards, tmp_path / "run", inputs="both", architecture="auxformer"))

    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    losses = [values["loss"] for line in lines if "loss" in (values := json.loads(line))]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])

    best = tmp_path / "run" / "best"
    config = load_two_stage(str(best)).config
    assert config.architecture == "auxformer"
    assert config.parameter_counts["shared"] > 0

    out = tmp_path / "evaluation"
    found = evaluate(EvaluateConfig(checkpoint=(str(best),), shards=shards, out=str(out)))
    assert found["scores"]["macro_f1"] > 0.5
    assert found["answered_from"] == {"sound+face": 36}
    assert pq.read_table(out / "predictions.parquet").num_rows == 36


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": "face", "architecture": "mult"}, "expected inputs=both"),
        ({"branches": ("a", "b"), "architecture": "vavl"}, "expected inputs=both"),
        ({"inputs": "both", "sfav_fusion": "ia"}, "give model.architecture=sfav"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    """A baseline joins both inputs in one training; a fusion of SFAV needs SFAV."""
    with pytest.raises(ConfigError, match=message):
        TwoStageOptions(**options)
