"""Runs of recipes without labels go on as if nothing had been, wherever they were killed.

Beside the curve, everything they leave is compared weight by weight: emotion2vec's student, decoder
and teacher, and the encoder, heads and statistics of targets of `multimodal`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.progress import OnProgress, unseen
from tests.trainers.engine.processes import die, losses, start
from tests.worlds.labeled import label
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.engine.buffers import BUFFERS_NAME
from trainers.models.encoders.data2vec.decoders import DECODER_NAME
from trainers.recipes.multimodal.task import HEADS_NAME
from trainers.training import run_training

RECIPES = ("emotion2vec", "multimodal")
# What a run of six steps leaves, but for what only DeepSpeed reads.
LEFT = {
    "emotion2vec": (f"last/{DECODER_NAME}", f"checkpoints/step-00000006/{BUFFERS_NAME}"),
    "multimodal": (f"last/{HEADS_NAME}",),
}
STUDENT = {
    "min_seconds": 0.1,
    "conv_size": 8,
    "mask_length": 2,
    "num_tokens": 2,
    "clones": 2,
    "ema_start": 0.5,
    "ema_end": 0.9,
    "ema_steps": 8,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Shards, and their tables, in which some utterances lack some targets."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("unlabeled")
    shards = write_training_world(folder / "shards")
    index, rng = read_index(shards), np.random.default_rng(0)

    widths = {"acoustics": 5, "sentiment": 3, "face_embedding": 4}
    arrays = {
        name: rng.random((len(index), width)).astype(np.float32) for name, width in widths.items()
    }
    arrays["sentiment"][::3] = np.nan
    arrays["face_embedding"][1::2] = np.nan
    label(folder / "predictions", shards, arrays, digests=("panel",) * 3)
    return shards, str(folder / "predictions")


def values_of(
    world: tuple[str, str], recipe: str, out: Path, zero_stage: int = 0
) -> dict[str, Any]:
    """Options of six steps of two batches, with a checkpoint after every second one."""
    shards, predictions = world
    engine = {"batches_per_step": 2, "checkpoint_every": 2, "validate_every": 6, "num_steps": 6}
    values = small_values(shards, out, recipe, zero_stage=zero_stage, **engine)
    values["encoder"] = {
        "hidden_size": 16,
        "num_layers": 3,
        "num_heads": 2,
        "intermediate_size": 32,
    }

    if recipe == "multimodal":
        return values | {"targets": predictions}
    return values | {"model": STUDENT}


def left(recipe: str, out: Path) -> Mapping[str, Tensor]:
    """Read all tensors that a finished run has left."""
    names = ("last/model.safetensors", *LEFT[recipe])
    return {
        f"{name} {key}": value for name in names for key, value in load_file(out / name).items()
    }


def train(values: dict[str, Any], on_step: OnProgress = unseen) -> None:
    run_training(from_mapping(TrainConfig, values), on_step)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_exactly(
    world: tuple[str, str],
    tmp_path: Path,
    recipe: str,
    zero_stage: int,
) -> None:
    """Ended after step 3, it goes on from step 2: with all kinds of ZeRO, bit for bit."""
    expected, out = tmp_path / "undisturbed", tmp_path / "run"
    train(values_of(world, recipe, expected, zero_stage))

    def interrupt(step: int, *_: object) -> None:
        if step == 3:
            raise KeyboardInterrupt

    values = values_of(world, recipe, out, zero_stage)
    with pytest.raises(KeyboardInterrupt):
        train(values, interrupt)
    train(values | {"resume": True})

    assert losses(out) == losses(expected)
    found, whole = left(recipe, out), left(recipe, expected)
    assert found.keys() == whole.keys()
    assert [name for name in whole if not torch.equal(found[name], whole[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "zero_stage"), [("emotion2vec", 2), ("multimodal", 3)])
def test_a_killed_run_goes_on_with_two_workers_and_back(
    world: tuple[str, str],
    tmp_path: Path,
    recipe: str,
    zero_stage: int,
) -> None:
    """Killed by SIGKILL alone after step 3, and with a second worker after step 5.

    One worker then ends the run. All is as if nothing had been, up to float rounding.
    """
    expected, out = tmp_path / "undisturbed", tmp_path / "run"
    train(values_of(world, recipe, expected, zero_stage))

    values = values_of(world, recipe, out, zero_stage)
    die(start(values, tmp_path, dying_at="step 3"))
    assert max(losses(out)) == 3
    values["resume"] = True
    die(start(values, tmp_path, workers=2, dying_at="step 5"), workers=2)
    assert max(losses(out)) == 5
    train(values)

    assert losses(out) == pytest.approx(losses(expected), rel=1e-3)
    found, whole = left(recipe, out), left(recipe, expected)
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)
