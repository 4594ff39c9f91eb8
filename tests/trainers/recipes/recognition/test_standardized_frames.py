"""`model.standardize_frames` trains on sets of a speaker, and is measured with the controls."""

from pathlib import Path

import pytest
import torch

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.models.standard import is_standard
from trainers.recipes.recognition.task import RecognitionTask
from trainers.training import make_task, run_training


@pytest.mark.parametrize("recipe", ["finetune", "setpeer"])
def test_it_trains_on_sets_and_hears_them(recipe: str, tmp_path: Path) -> None:
    """Every training batch has whole sets, and support of another speaker changes the answers."""
    torch.set_num_threads(1)
    shards = write_training_world(tmp_path / "packed")
    values = small_values(shards, tmp_path / "run", recipe, num_steps=4, validate_every=4)
    values["model"] = values.get("model", {}) | {"standardize_frames": True}
    config = from_mapping(TrainConfig, values)

    task = make_task(config, read_index(shards))
    assert isinstance(task, RecognitionTask)
    batch = task.training_reader()[0, task.plan().epoch(0)[0]]
    assert torch.bincount(batch.sets).tolist() == [4, 4]
    assert len(set(zip(batch.sets.tolist(), batch.speakers, strict=True))) == 2

    run_training(config)
    trained, test = load_recognizer(f"{tmp_path}/run/best"), read_index(shards).split("test")
    assert not is_standard(tmp_path / "run" / "best")
    same, wrong = (predict(trained, test, support=support).scores for support in ("same", "wrong"))
    assert abs(same - wrong).max() > 1e-3


def test_a_model_that_hears_no_sets_takes_no_support(tmp_path: Path) -> None:
    """Without the option, finetune is as before: batches of utterances, and no support."""
    torch.set_num_threads(1)
    shards = write_training_world(tmp_path / "packed")
    values = small_values(shards, tmp_path / "run", "finetune", num_steps=1, validate_every=1)
    run_training(from_mapping(TrainConfig, values))

    trained = load_recognizer(f"{tmp_path}/run/best")
    with pytest.raises(ConfigError, match="not personalized"):
        predict(trained, read_index(shards).split("test"), support="wrong")
