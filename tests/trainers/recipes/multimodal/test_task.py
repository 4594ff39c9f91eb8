"""`train multimodal` on shards as they are, with the tables that `label` wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.labeled import label
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.models.encoders.loading import load_encoder
from trainers.training import run_training

WIDTHS = {"acoustics": 25, "sentiment": 3, "face_embedding": 7}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Shards, and their tables: the first acoustic value follows from the class that is heard."""
    folder = tmp_path_factory.mktemp("multimodal")
    shards = write_training_world(folder / "shards")
    index, rng = read_index(shards), np.random.default_rng(0)

    arrays = {
        name: rng.random((len(index), width)).astype(np.float32) for name, width in WIDTHS.items()
    }
    arrays["acoustics"][:, 0] = index.values("arousal")
    arrays["sentiment"] /= arrays["sentiment"].sum(axis=1, keepdims=True)
    label(folder / "predictions", shards, arrays, digests=("panel",) * 3)
    return shards, folder / "predictions"


def config(world: tuple[str, Path], out: Path, **changes: Any) -> TrainConfig:
    shards, predictions = world
    model = {"splits": ["train", "validation"], **changes.pop("model", {})}
    values = small_values(shards, out, "multimodal", num_steps=30, **changes)
    return from_mapping(TrainConfig, values | {"targets": str(predictions), "model": model})


def test_it_learns_and_exports_an_encoder_with_its_heads(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """The loss falls; the encoder opens as any other; heads are 25, 3 and D wide."""
    result = run_training(config(world, tmp_path / "run", learning_rate=3e-3))
    assert result.steps == 30

    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])

    assert load_encoder(str(tmp_path / "run/best")).width == 16
    heads = load_file(tmp_path / "run/best/objectives.safetensors")
    for name, width in WIDTHS.items():
        assert heads[f"{name}.weight"].shape == (width, 16)
        assert heads[f"{name}.mean"].shape == heads[f"{name}.spread"].shape == (width,)


def test_an_objective_without_weight_needs_no_target(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """Then it has no head, and a column that no table has is no error."""
    shards, _ = world
    arrays = {"acoustics": np.random.default_rng(1).random((108, 2)).astype(np.float32)}
    label(tmp_path / "predictions", shards, arrays, digests=("panel",) * 3)

    weights = {"sentiment_weight": 0, "face_weight": 0}
    run_training(config((shards, tmp_path / "predictions"), tmp_path / "run", model=weights))
    assert {
        name.partition(".")[0] for name in load_file(tmp_path / "run/best/objectives.safetensors")
    } == {"acoustics"}

    with pytest.raises(ConfigError, match="no table has the objective sentiment"):
        run_training(config((shards, tmp_path / "predictions"), tmp_path / "again"))


def test_a_modality_that_nobody_has_leaves_the_encoder_as_the_others_made_it(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """Bit for bit: an unknown target moves nothing."""
    shards, _ = world
    rng = np.random.default_rng(2)
    arrays = {
        "acoustics": rng.random((108, 3)).astype(np.float32),
        "face_embedding": np.full((108, 4), np.nan, dtype=np.float32),
    }
    label(tmp_path / "predictions", shards, arrays, digests=("panel",) * 3)

    encoders = []
    for name, face_weight in (("with", 1.0), ("without", 0.0)):
        weights = {"sentiment_weight": 0, "face_weight": face_weight}
        run_training(config((shards, tmp_path / "predictions"), tmp_path / name, model=weights))
        encoders.append(load_file(tmp_path / name / "last/model.safetensors"))

    for key, tensor in encoders[0].items():
        assert torch.equal(tensor, encoders[1][key]), key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": None}, "--targets: must be given"),
        ({"recipe": "finetune", "model": {}}, "reads its targets from the shards"),
        ({"data": {"modality": "face"}}, "expected audio"),
        ({"model": {"acoustics_weight": 0, "sentiment_weight": 0, "face_weight": 0}}, "all are 0"),
        ({"model": {"held_out_share": 1.0}}, "held_out_share"),
        ({"data": {"num_speakers": 3}}, "uses no labels"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The error names the option."""
    values = small_values("s/*.tar", tmp_path, "multimodal") | {"targets": "predictions"}
    with pytest.raises(ConfigError, match=message):
        from_mapping(TrainConfig, values | changes)
