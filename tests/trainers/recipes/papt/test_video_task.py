"""TAPT and PAPT on video run through the engine: from nothing, personalized, fine-tuned, asked."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.training import video_values, write_video_world
from trainers.config import TrainConfig
from trainers.engine.run import TrainingResult
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.preparation.proxy_speakers import assign_speakers, speaker_vectors
from trainers.training import run_training


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_video_world(tmp_path_factory.mktemp("films"))


def values_of(
    shards: str, out: Path, recipe: str, checkpoint: Path | None = None, **model: Any
) -> dict[str, Any]:
    values = video_values(shards, out, recipe)
    values["encoder"] |= {"checkpoint": None if checkpoint is None else str(checkpoint)}
    values["model"] = ({"mask_ratio": 0.5} if recipe.endswith("-video") else {}) | model
    return values


def train(
    shards: str, out: Path, recipe: str, checkpoint: Path | None = None, **model: Any
) -> TrainingResult:
    return run_training(
        from_mapping(TrainConfig, values_of(shards, out, recipe, checkpoint, **model))
    )


def long_values(shards: str, out: Path) -> dict[str, Any]:
    values = values_of(shards, out, "tapt-video")
    often = {"num_steps": 60, "validate_every": 30, "checkpoint_every": 30, "learning_rate": 1e-2}
    values["engine"] |= often
    return values


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def validations(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["validation_masked"] for line in lines if "validation_masked" in line]


@pytest.fixture(scope="module")
def original(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pre-train a small VideoMAE from nothing."""
    out = tmp_path_factory.mktemp("runs") / "tapt"
    run_training(from_mapping(TrainConfig, long_values(shards, out)))
    return out


def test_reconstruction_is_learned_and_exported(original: Path) -> None:
    """The error falls in training and on held-out films; transformers reads the encoder."""
    curve = losses(original)
    assert np.mean(curve[-6:]) < 0.9 * np.mean(curve[:6])
    first, last = validations(original)
    assert last < first
    assert AutoModel.from_pretrained(original / "best").config.model_type == "videomae"


def test_interrupted_pretraining_goes_on_exactly(
    shards: str, original: Path, tmp_path: Path
) -> None:
    """A run set back half way repeats the same losses, because each batch seeds its own tubes."""
    out = tmp_path / "resumed"
    shutil.copytree(original, out)
    shutil.rmtree(out / "checkpoints" / "step-00000060")
    run_training(from_mapping(TrainConfig, long_values(shards, out) | {"resume": True}))
    assert losses(out) == losses(original)


@pytest.mark.parametrize("fusion", ["last", "first", "prefix"])
def test_papt_is_fine_tuned_and_meets_strangers(
    shards: str, original: Path, tmp_path: Path, fusion: str
) -> None:
    """A test speaker borrows the embedding of whom the original encoder finds most alike.

    The original encoder travels along, and embeddings decide on the answers.
    """
    train(shards, tmp_path / "papt", "papt-video", original / "best", fusion=fusion)
    before = load_file(original / "best" / "model.safetensors")
    kept = load_file(tmp_path / "papt" / "best" / "original" / "model.safetensors")
    adapted = load_file(tmp_path / "papt" / "best" / "model.safetensors")
    assert all(torch.equal(before[name], kept[name]) for name in before)
    assert not all(torch.equal(before[name], adapted[name]) for name in before)

    train(shards, tmp_path / "tuned", "finetune", tmp_path / "papt" / "best", head="interpreter")
    trained = load_recognizer(str(tmp_path / "tuned" / "best"))
    state, clip = trained.speakers, trained.model.clip_format
    assert state is not None

    test = read_index(shards).split("test")
    numbers = assign_speakers(state, test, "video", clip)
    names, vectors = speaker_vectors(state.original, test, "video", clip)
    stored = state.embedding.vectors.numpy()
    for name, vector in zip(names, vectors, strict=True):
        cosines = stored @ vector / np.linalg.norm(stored, axis=1) / np.linalg.norm(vector)
        assert numbers[name] == int(cosines.argmax())

    found = predict(trained, test)
    np.testing.assert_array_equal(predict(trained, test).scores, found.scores)
    torch.nn.init.normal_(trained.model.speakers.table.weight)  # type: ignore[union-attr]
    # A prefix reaches the frames only through attention, which is weak in a model this young.
    assert np.abs(predict(trained, test).scores - found.scores).max() > 1e-6


def test_papt_starts_from_a_trained_recognizer(shards: str, tmp_path: Path) -> None:
    """As in the paper's comparison: the encoder is that of a recognizer trained with labels."""
    train(shards, tmp_path / "plain", "finetune")
    train(shards, tmp_path / "papt", "papt-video", tmp_path / "plain" / "best")
    whole = load_file(tmp_path / "plain" / "best" / "model.safetensors")
    kept = load_file(tmp_path / "papt" / "best" / "original" / "model.safetensors")
    assert all(torch.equal(whole[f"encoder.model.{name}"], value) for name, value in kept.items())


@pytest.mark.parametrize("engine", [{"zero_stage": 3}, {"precision": "bfloat16"}])
def test_sharded_and_in_half_precision_it_trains_too(
    shards: str, original: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    """With sharded weights or in half precision, embeddings are learned and exported."""
    values = values_of(shards, tmp_path / "run", "papt-video", original / "best")
    values["engine"] |= {"learning_rate": 3e-3} | engine
    run_training(from_mapping(TrainConfig, values))
    weights = load_file(tmp_path / "run" / "best" / "speakers.safetensors")
    assert weights["table.weight"].shape == (6, 16)
    assert weights["table.weight"].abs().max() > 0


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        ("tapt-video", {}, "got audio for tapt-video, expected video"),
        ("papt-video", {"data": {"modality": "video"}}, "must be given for papt-video"),
        ("tapt", {"data": {"modality": "video"}}, "for video, train tapt-video or papt-video"),
        ("tapt-video", {"data": {"modality": "video", "num_speakers": 2}}, "uses no labels"),
        ("tapt-video", {"data": {"modality": "video"}, "model": {"mask_ratio": 1.0}}, "mask_ratio"),
    ],
)
def test_options_that_cannot_work_are_refused(
    recipe: str, values: dict[str, Any], message: str
) -> None:
    """The message says what was got, and which recipe to train instead."""
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, {"recipe": recipe, "shards": "*.tar", "out": "run"} | values)
