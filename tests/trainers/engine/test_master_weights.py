"""A run in bfloat16 exports the float32 weights that it has learned, and those that it froze."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from shards.config_values import from_mapping
from tests.trainers.engine.processes import finish, start
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.training import run_training

SMALL_RATE = 1e-5
NUM_STEPS = 4


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def first(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a float32 run, from which the others start."""
    out = tmp_path_factory.mktemp("first") / "run"
    run_training(from_mapping(TrainConfig, small_values(shards, out, "finetune", num_steps=2)))
    return out / "last"


def values_of(shards: str, begin: Path, out: Path, **engine: Any) -> dict[str, Any]:
    """Options of a few steps from the checkpoint `begin`, with the lowest layer frozen."""
    steps = {"num_steps": NUM_STEPS, "learning_rate": SMALL_RATE, "schedule": "constant"}
    values = small_values(shards, out, "finetune", **steps, warmup_share=0.0, weight_decay=0.0)
    values["engine"] |= engine
    values["encoder"] = {"checkpoint": str(begin), "freeze_layers": 1}
    return values


def train(
    shards: str, begin: Path, out: Path, *, resume: bool = False, **engine: Any
) -> dict[str, torch.Tensor]:
    """Take these steps; returns what was exported at their end."""
    values = values_of(shards, begin, out, **engine) | {"resume": resume}
    run_training(from_mapping(TrainConfig, values))

    return load_file(out / "last" / "model.safetensors")


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_small_steps_are_not_rounded_away(
    shards: str, first: Path, tmp_path: Path, zero_stage: int
) -> None:
    """AdamW moves a weight by the rate each step, and the export shows it; frozen ones stay.

    Half the distance between two bfloat16 numbers near 0.1 is 25 times the rate, so a rounded
    export would show steps of either nothing or far too much.
    """
    before = load_file(first / "model.safetensors")
    after = train(shards, first, tmp_path / "run", precision="bfloat16", zero_stage=zero_stage)

    frozen = [name for name in before if name.startswith("encoder.model.layers.0.")]
    assert len(frozen) > 4
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert any((before[name] != before[name].bfloat16().float()).any() for name in frozen)

    weight = "head.1.weight"
    moved = (after[weight] - before[weight]).abs()
    assert after[weight].dtype == torch.float32
    assert 0 < moved.min() <= moved.max() <= 1.01 * NUM_STEPS * SMALL_RATE


def test_a_resumed_run_exports_the_same(shards: str, first: Path, tmp_path: Path) -> None:
    """The masters come back with a checkpoint: a run in two parts exports what one run does."""
    engine = {"precision": "bfloat16", "checkpoint_every": 2, "keep_checkpoints": 9}
    whole = train(shards, first, tmp_path / "run", **engine)

    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{NUM_STEPS:08d}"
    shutil.rmtree(checkpoint)
    again = train(shards, first, tmp_path / "run", resume=True, **engine)

    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


@pytest.mark.slow
def test_two_workers_export_what_one_does(shards: str, first: Path, tmp_path: Path) -> None:
    """Masters that ZeRO 3 divides among two workers are put together, odd sizes included."""
    engine = {"precision": "bfloat16", "zero_stage": 3, "batches_per_step": 2}
    alone = train(shards, first, tmp_path / "alone", **engine)

    folder = tmp_path / "options"
    folder.mkdir()
    finish(start(values_of(shards, first, tmp_path / "shared", **engine), folder, workers=2))
    shared = load_file(tmp_path / "shared" / "last" / "model.safetensors")

    for name, value in alone.items():
        assert torch.allclose(shared[name], value, atol=NUM_STEPS * SMALL_RATE), name
