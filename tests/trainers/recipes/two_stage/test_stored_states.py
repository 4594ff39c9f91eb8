"""Training on the states that `emostream features` stored, in place of computing them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import read_index
from shards.loading.loader import BatchReader, read_once
from shards.storage.files import list_files
from shards.tables.feature_store import open_features
from shards.tables.features import FeatureInfo, FeatureRow, FeatureWriter
from tests.worlds.rated import rated_config, rated_values, write_rated_world
from trainers.config import TrainConfig
from trainers.evaluation.predicting import load_recognizer, predict
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.personal.adapted_encoder import save_encoder
from trainers.models.two_stage.loading import load_two_stage
from trainers.training import run_training

VOICE = {"inputs": "audio", "labels": "voice"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Shards, and a folder with an encoder, its features, and a branch trained on them."""
    folder = tmp_path_factory.mktemp("stored")
    shards = write_rated_world(folder / "shards")
    encoder = make_encoder(seed=0)
    save_encoder(encoder, folder / "encoder")
    store(shards, encoder, folder / "features")

    run_training(config(shards, folder, folder / "stored", **stored(folder)))
    return shards, folder


def make_encoder(seed: int) -> LayerwiseEncoder:
    torch.manual_seed(seed)
    sizes = SequenceEncoderConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    model = SequenceEncoder(sizes)
    model.set_statistics(torch.full((80,), -8.0), torch.full((80,), 4.0))
    return LayerwiseEncoder(model).eval()


@torch.inference_mode()
def store(
    shards: str, encoder: LayerwiseEncoder, out: Path, layers: tuple[int, ...] = (0, 1, 2)
) -> None:
    """Write the feature files of all shards, as `emostream features` does."""
    out.mkdir()
    index = read_index(shards)
    for file in list_files(shards):
        rows = np.asarray(
            [row for row, url in enumerate(index.table["shard"].to_pylist()) if url == file.url]
        )
        name = Path(file.url).name
        with FeatureWriter() as writer:
            singles = [PlannedBatch(np.asarray([row]), np.zeros(1, dtype=np.int64)) for row in rows]
            batches = read_once(BatchReader(index, ["sound"]), singles)
            for row, batch in zip(rows, batches, strict=True):
                heard = batch.inputs["sound"]
                states, _ = encoder.hidden_states(heard.values, heard.lengths)
                frames = torch.stack([states[number] for number in layers], dim=2)[0].half().numpy()
                writer.add(row_of(index, int(row), len(frames)), frames)
            info = FeatureInfo(
                encoder="small",
                fingerprint="features:test",
                layers=list(layers),
                width=16,
                shard=name,
                shard_url=file.url,
                shard_size=file.size,
                shard_version=file.version,
                shard_error=None,
                num_rows=len(rows),
            )
            writer.commit(str(out / f"{name}.safetensors"), info)


def row_of(index: Any, row: int, num_frames: int) -> FeatureRow:
    (values,) = index.table.slice(row, 1).to_pylist()
    return FeatureRow(
        key=values["key"],
        offset=values["offset"],
        duration_seconds=values["duration_seconds"],
        num_frames=num_frames,
        error=None,
    )


def stored(folder: Path, name: str = "features") -> dict[str, Any]:
    return {"features": "stored", "features_folder": str(folder / name)}


def config(shards: str, folder: Path, out: Path, **model: Any) -> TrainConfig:
    values = rated_values(shards, out, **(VOICE | model))
    values["encoder"] = {"checkpoint": str(folder / "encoder")}
    return from_mapping(TrainConfig, values)


def curve(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_stored_and_computed_states_train_the_same_model(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """The first loss agrees within float16, and the answers of the trained models nearly."""
    shards, folder = world
    run_training(config(shards, folder, tmp_path / "computed"))
    stored_curve, computed_curve = curve(folder / "stored"), curve(tmp_path / "computed")
    assert stored_curve[0] == pytest.approx(computed_curve[0], rel=1e-3)
    assert stored_curve != computed_curve

    index = read_index(shards).split("test")
    answers = [
        predict(load_recognizer(str(run / "last")), index).scores
        for run in (folder / "stored", tmp_path / "computed")
    ]
    np.testing.assert_allclose(*answers, atol=0.02)


def test_an_export_computes_what_its_training_read(world: tuple[str, Path]) -> None:
    """The model of stored states answers to sound as to the states, within float16."""
    shards, folder = world
    model = load_two_stage(str(folder / "stored" / "best"))
    index = read_index(shards).split("test")
    reader = BatchReader(
        index, ["sound", "states"], features=open_features(str(folder / "features"), shards)
    )
    batch = reader[0, PlannedBatch(np.arange(8), np.arange(8))]
    with torch.inference_mode():
        read = model({"states": batch.inputs["states"]}).log_probs_NC
        computed = model({"sound": batch.inputs["sound"]}).log_probs_NC
    torch.testing.assert_close(read, computed, rtol=0.0, atol=5e-3)
    assert not torch.equal(read, computed)


def test_stage_2_reads_stored_states_too(world: tuple[str, Path], tmp_path: Path) -> None:
    """With faces beside them; the sound is never decoded."""
    shards, folder = world
    run_training(rated_config(shards, tmp_path / "5", inputs="face", labels="face"))
    branches = [str(folder / "stored" / "best"), str(tmp_path / "5" / "best")]
    run_training(rated_config(shards, tmp_path / "11", branches=branches, **stored(folder)))
    assert len(curve(tmp_path / "11")) == 30


def test_features_of_another_encoder_or_of_some_layers_are_refused(
    world: tuple[str, Path], tmp_path: Path
) -> None:
    """The error says what they are, and what to do."""
    shards, folder = world
    store(shards, make_encoder(seed=1), tmp_path / "others")
    store(shards, make_encoder(seed=0), tmp_path / "some", layers=(0, 2))
    for name, message in (
        ("others", "differ from what this run's encoder computes"),
        ("some", "holds the layers 0, 2, expected 0 to 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_training(config(shards, folder, tmp_path / "run", **stored(tmp_path, name)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"features": "stored"}, "expected a folder exactly for stored"),
        ({"features_folder": "features"}, "expected a folder exactly for stored"),
        ({"trains_encoder": True, **stored(Path("x"))}, "the encoder changes"),
        ({"inputs": "face", **stored(Path("x"))}, "faces have no encoder"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    model: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match=message):
        rated_config("s/*.tar", tmp_path, **(VOICE | model))
