"""Video through the command line: a VideoMAE recognizer is trained, resumed, evaluated, reused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from transformers import VideoMAEConfig, VideoMAEImageProcessorPil, VideoMAEModel

from cluster.cli import main
from shards.loading.index import read_index
from shards.loading.loader import BatchReader, read_once
from shards.samples.sample import Sample
from tests.worlds.small import write_shard
from tests.worlds.training import heard, make_film, video_values, write_video_world
from trainers.evaluation.predicting import plan_sets
from trainers.models.recognizer import EmotionRecognizer


def train(values: dict[str, Any], folder: Path, *flags: str) -> int:
    options = folder / "options.yaml"
    options.write_text(yaml.safe_dump(values))
    return main(["train", "--config", str(options), *flags])


def evaluate(run: Path, shards: str) -> int:
    command = [
        "evaluate",
        "--checkpoint",
        f"{run}/best",
        "--shards",
        shards,
        "--out",
        f"{run}/evaluation",
    ]

    return main([*command, "--set-size", "3"])


def curve(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Films, and both recipes trained on them from scratch."""
    torch.set_num_threads(1)
    path = tmp_path_factory.mktemp("films")
    shards = write_video_world(path / "packed")

    for recipe, steps in (("finetune", 120), ("setpeer", 8)):
        often = {
            "num_steps": steps,
            "validate_every": 40,
            "checkpoint_every": 4,
            "learning_rate": 3e-3,
        }
        assert train(video_values(shards, path / recipe, recipe, **often), path) == 0
        assert evaluate(path / recipe, shards) == 0

    return path


def test_motion_is_learned(folder: Path) -> None:
    """Films of unseen speakers are recognized by how the square moves, far above chance."""
    found = json.loads((folder / "finetune" / "evaluation" / "metrics.json").read_text())
    assert found["number"] == 36
    assert found["scores"]["accuracy"] > 0.7


@pytest.mark.parametrize("recipe", ["finetune", "setpeer"])
def test_what_is_evaluated_is_what_the_exported_model_says(folder: Path, recipe: str) -> None:
    """The exported model gives the scores of the table, with the clip format that it carries."""
    table = pq.read_table(folder / recipe / "evaluation" / "predictions.parquet").to_pandas()
    model = EmotionRecognizer.from_pretrained(folder / recipe / "best").eval()

    index = read_index(f"{folder}/packed/*.tar").split("test")
    reader = BatchReader(index, ["clip"], clip=model.clip_format)
    (plan, _), *_ = plan_sets(index.rows_by_speaker(), 3, "same", 0)
    (batch,) = read_once(reader, [plan])

    with torch.inference_mode():
        scores = model(*heard(batch), torch.zeros_like(batch.sets)).scores_NC.softmax(dim=-1)

    keys = [index.table["key"][row].as_py() for row in batch.rows.tolist()]
    expected = table.set_index("key").loc[keys, [f"score_{name}" for name in model.config.names]]
    np.testing.assert_allclose(scores.numpy(), expected.to_numpy(), rtol=1e-3, atol=1e-5)


def test_a_resumed_run_is_the_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    """A run that stopped halfway and resumed has the curve of an undisturbed run."""
    values = video_values(
        f"{folder}/packed/*.tar", tmp_path / "run", "setpeer", num_steps=8, learning_rate=3e-3
    )
    values["engine"] |= {
        "validate_every": 40,
        "checkpoint_every": 4,
        "schedule": "constant",
        "warmup_share": 0.0,
    }

    values["engine"]["num_steps"] = 4
    assert train(values, tmp_path) == 0
    values["engine"]["num_steps"] = 8
    assert train(values, tmp_path, "--resume") == 0

    whole = values | {"out": str(tmp_path / "whole")}
    assert train(whole, tmp_path) == 0

    assert len(curve(tmp_path / "run")) == 8
    assert curve(tmp_path / "run") == curve(tmp_path / "whole")


def test_a_pretrained_videomae_is_fine_tuned_but_for_its_frozen_parts(
    folder: Path, tmp_path: Path
) -> None:
    """The patch embedding and the lowest layer stay frozen, the other layers are trained.

    Clips are made as the processor of the checkpoint says, and the result can be trained further.
    """
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    model = VideoMAEModel(VideoMAEConfig(image_size=16, patch_size=8, num_frames=4, **small))
    model.save_pretrained(tmp_path / "videomae")

    processor = VideoMAEImageProcessorPil(
        size={"shortest_edge": 20},
        crop_size={"height": 16, "width": 16},
        image_mean=[0.4] * 3,
        image_std=[0.2] * 3,
    )
    processor.save_pretrained(tmp_path / "videomae")

    for start, out in (("videomae", "first"), ("first/best", "second")):
        values = video_values(f"{folder}/packed/*.tar", tmp_path / out, "setpeer", num_steps=2)
        values["encoder"] = {"checkpoint": str(tmp_path / start), "freeze_layers": 1}
        assert train(values, tmp_path) == 0

        found = EmotionRecognizer.from_pretrained(tmp_path / out / "last")
        assert found.clip_format is not None
        assert (found.clip_format.shortest_edge_pixels, found.clip_format.mean) == (
            20,
            (0.4, 0.4, 0.4),
        )

        trained = found.encoder.model.state_dict()
        same = {
            name for name, value in model.state_dict().items() if torch.equal(value, trained[name])
        }
        assert same == {
            name for name in trained if name.startswith(("embeddings.", "encoder.layer.0."))
        }
        assert len(same) < len(trained)


def test_a_film_that_is_damaged_or_missing_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged or missing film is named with its key and reason.

    Training stops with status 4, evaluation with status 2.
    """
    for name, video, reason in (
        ("cut", (make_film("train", 0, 0).video or b"")[:-200], "corrupt_video"),
        ("no", None, "no_video"),
    ):
        packed = tmp_path / name
        packed.mkdir()
        for split in ("train", "validation", "test"):
            films = [make_film(split, speaker, n) for speaker in range(2) for n in range(6)]

            broken = {
                "video": video,
                "video_format": "mp4" if video else None,
                "transcript": "a word",
            }
            films[7] = Sample(key=films[7].key, metadata=films[7].metadata, **broken)  # type: ignore[arg-type]
            write_shard(packed / f"{split}.tar", films)

        assert (
            train(video_values(f"{packed}/*.tar", tmp_path / f"{name}-run", "finetune"), tmp_path)
            == 4
        )
        assert reason in (said := capsys.readouterr().err)
        assert "sample 'train-1-001'" in said
        assert evaluate(folder / "finetune", f"{packed}/*.tar") == 2
        assert reason in (said := capsys.readouterr().err)
        assert "sample 'test-1-001'" in said


def test_a_detector_that_is_not_there_stops_the_run(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing face detector stops the run with the remedy that a panel's detector has."""
    values = video_values(f"{folder}/packed/*.tar", tmp_path / "run", "finetune")
    values["data"]["faces"] = {"detector": str(tmp_path / "yunet.onnx")}
    assert train(values, tmp_path) == 2
    assert "set detector to a YuNet .onnx file" in capsys.readouterr().err


@pytest.mark.parametrize("engine", [{"zero_stage": 3}, {"precision": "bfloat16", "zero_stage": 1}])
def test_sharded_and_in_half_precision_it_trains_too(
    folder: Path, tmp_path: Path, engine: dict[str, Any]
) -> None:
    """With sharded weights or in half precision the loss falls, and the exported model loads."""
    values = video_values(
        f"{folder}/packed/*.tar", tmp_path / "run", "finetune", num_steps=40, learning_rate=3e-3
    )
    values["engine"] |= {"validate_every": 40, "checkpoint_every": 40} | engine

    assert train(values, tmp_path) == 0

    losses = curve(tmp_path / "run")
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    assert EmotionRecognizer.from_pretrained(tmp_path / "run" / "best").clip_format is not None
