"""`train multimodal` on shards as they are, with the tables that `label` wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import Wav2Vec2Config, Wav2Vec2Model

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import read_index
from tests.worlds.labeled import label
from tests.worlds.small import write_shard
from tests.worlds.training import make_utterance, small_values, write_training_world
from trainers.config import TrainConfig
from trainers.models.encoders.loading import load_encoder
from trainers.preparation.hold_out import hold_out_speakers
from trainers.recipes.multimodal.task import HEADS_NAME, MultimodalTask
from trainers.settings.encoder import EncoderConfig
from trainers.training import make_task, read_corpus, run_training

WIDTHS = {"acoustics": 25, "sentiment": 3, "face_embedding": 1408}


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
    """The loss falls; the encoder opens as any other; heads are 25, 3 and 1,408 wide."""
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


def test_an_utterance_that_is_not_learned_from_changes_no_weight(tmp_path: Path) -> None:
    """Neither the sound and targets of a test speaker do, nor the targets of who is held out."""
    rng, lefts = np.random.default_rng(3), []
    arrays = {"acoustics": rng.standard_normal((108, 3)).astype(np.float32)}

    for name in ("one", "other"):
        shards = write_training_world(tmp_path / name)
        found = read_index(shards)
        if name == "other":
            others = [make_utterance("test", s, n + 100) for s in range(6) for n in range(6)]
            write_shard(tmp_path / name / "test-000000.tar", others)
            train = found.split("train")
            held_out = train.take(np.flatnonzero(hold_out_speakers(train, 0.1, seed=0)))
            (speaker,) = set(held_out.table["speaker"].to_pylist())
            rows = np.isin(found.table["speaker"].to_pylist(), [speaker])
            rows |= found.table["split"].to_numpy(zero_copy_only=False) == "test"
            assert rows.sum() == 36 + 6
            arrays["acoustics"][rows] *= 50

        label(tmp_path / f"{name}-predictions", shards, arrays, digests=("panel",) * 3)
        weights = {"splits": ["train"], "held_out_share": 0.1}
        weights |= {"sentiment_weight": 0, "face_weight": 0}
        run_training(
            config(
                (shards, tmp_path / f"{name}-predictions"), tmp_path / f"{name}-run", model=weights
            )
        )
        folder = tmp_path / f"{name}-run" / "last"
        lefts.append(load_file(folder / "model.safetensors") | load_file(folder / HEADS_NAME))

    assert {key for key in lefts[0] if not torch.equal(lefts[0][key], lefts[1][key])} == set()


def test_convolutions_are_frozen_and_the_transformer_is_not(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """No gradient reaches wav2vec 2.0's convolutions, and after a run they are as they were."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (8, 4)}
    start = Wav2Vec2Model(
        Wav2Vec2Config(
            intermediate_size=32,
            num_conv_pos_embeddings=8,
            num_feat_extract_layers=2,
            layerdrop=0.0,
            **sizes,
            **convolutions,
        )
    )
    start.save_pretrained(tmp_path / "wav2vec2")

    made = config(world, tmp_path / "run")
    made = replace(made, encoder=EncoderConfig(checkpoint=str(tmp_path / "wav2vec2")))
    task = make_task(made, read_corpus(made))
    assert isinstance(task, MultimodalTask)
    model = task.build_model().train()
    model(task.training_reader()[0, task.plan().epoch(0)[0]])["loss"].backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert not any("feature_extractor" in name for name in with_gradient)
    assert any("encoder.layers.0" in name for name in with_gradient)

    run_training(made)
    exported, before = load_file(tmp_path / "run/last/model.safetensors"), start.state_dict()
    changed = {name for name, weight in exported.items() if not torch.equal(weight, before[name])}
    assert not any(name.startswith("feature_extractor.") for name in changed)
    assert any(name.startswith("encoder.layers.0.") for name in changed)


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
