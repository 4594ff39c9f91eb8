"""The engine: the same curve whether killed, resumed, or shared among workers; whole checkpoints; clear ends."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from shards.config import ConfigError, from_mapping
from tests.training_world import small_config, small_values, write_training_world
from trainers.engine import TrainingResult, read_result, run_training
from trainers.models.recognizer import EmotionRecognizer
from trainers.settings import TrainConfig

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def undisturbed(shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    run_training(small_config(shards, out, batches_per_step=2))
    return out


def losses(out: Path, name: str = "loss") -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def start(values: dict[str, Any], folder: Path, *, workers: int = 1) -> subprocess.Popen[bytes]:
    options = folder / "options.yaml"
    options.write_text(yaml.safe_dump(values))
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(workers)] if workers > 1 else []
    command = [sys.executable, *launcher, "-m", "cluster", "train", "--config", str(options)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes]) -> None:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output.decode()[-3000:]


def test_a_run_leaves_a_model_and_its_numbers(undisturbed: Path) -> None:
    """The best model loads, every step is a line, and the result says what was reached."""
    assert sorted(losses(undisturbed)) == list(range(1, 13))
    assert all(math.isfinite(loss) for loss in losses(undisturbed).values())
    result = read_result(undisturbed)
    assert (result.steps, result.stopped_early) == (12, False)
    validated = losses(undisturbed, "validation_macro_f1")
    assert sorted(validated) == [6, 12]
    assert result.best["macro_f1"] == max(validated.values())
    model = EmotionRecognizer.from_pretrained(undisturbed / "best")
    assert model.config.names == ["neutral", "anger", "happiness"]
    assert list((undisturbed / "tensorboard").glob("events.*"))


def test_a_killed_run_goes_on_as_if_nothing_had_been(shards: str, undisturbed: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, a half-written checkpoint beside: the resumed curve is the undisturbed one, exactly."""
    out = tmp_path / "killed"
    values = small_values(shards, out, batches_per_step=2)
    process = start(values, tmp_path)
    deadline = time.monotonic() + 100
    while not (out / "metrics.jsonl").exists() or len(losses(out)) < 6:
        assert process.poll() is None, process.communicate()[0].decode()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    half = out / "checkpoints" / ".step-00000099.tmp"
    half.mkdir()
    (half / "progress.json").write_text("{}")
    run_training(replace(from_mapping(TrainConfig, values), resume=True))
    assert losses(out) == losses(undisturbed)
    assert losses(out, "validation_macro_f1") == losses(undisturbed, "validation_macro_f1")
    assert not half.exists()


@pytest.mark.parametrize(("zero_stage", "first", "then"), [(0, 2, 1), (1, 2, 1), (2, 1, 2)])
def test_another_number_of_workers_goes_on(
    shards: str, undisturbed: Path, tmp_path: Path, zero_stage: int, first: int, then: int
) -> None:
    """Eight steps by some workers and four by others give the curve of one worker, to float rounding."""
    out = tmp_path / "moved"
    engine: dict[str, Any] = {"batches_per_step": 2, "zero_stage": zero_stage}
    finish(start(small_values(shards, out, **engine), tmp_path, workers=first))
    assert losses(out) == pytest.approx(losses(undisturbed), rel=1e-3)
    # Back to the checkpoint of step 8, as if the run had been stopped there.
    shutil.rmtree(out / "checkpoints" / "step-00000012")
    finish(start(small_values(shards, out, **engine) | {"resume": True}, tmp_path, workers=then))
    assert losses(out) == pytest.approx(losses(undisturbed), rel=1e-3)


@pytest.mark.parametrize(
    ("recipe", "engine"), [("finetune", {"precision": "bfloat16"}), ("finetune", {"zero_stage": 3})]
)
def test_precisions_and_stages_train(shards: str, tmp_path: Path, recipe: str, engine: dict[str, Any]) -> None:
    """bfloat16 and ZeRO 3 in one process; what they export is float32 and loads."""
    result = run_training(small_config(shards, tmp_path / "run", recipe, **engine))
    assert result.steps == 12
    model = EmotionRecognizer.from_pretrained(tmp_path / "run" / "best")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_values_are_learnt_by_concordance(shards: str, tmp_path: Path) -> None:
    """Regression on numbers of the json, with PAPT's head, picks the best by CCC."""
    values = small_values(shards, tmp_path / "run", "finetune")
    values["data"]["target"] = {"kind": "values", "values": ["arousal"]}
    values["model"] = {"head": "interpreter"}
    result = run_training(from_mapping(TrainConfig, values))
    assert set(result.best) == {"ccc", "speaker_ccc"}


def test_patience_stops_early(shards: str, tmp_path: Path) -> None:
    """Without improvement for `patience` validations the run ends, with a checkpoint of where it is."""
    config = small_config(
        shards, tmp_path / "run", "finetune", learning_rate=1e-12, num_steps=50, validate_every=2, patience=2
    )
    result = run_training(config)
    assert result == TrainingResult(
        steps=6, best_step=2, best=result.best, stopped_early=True, padding_share=result.padding_share
    )
    assert (tmp_path / "run" / "checkpoints" / "step-00000006").exists()


def test_zero_3_is_refused_where_it_does_not_work(shards: str, tmp_path: Path) -> None:
    """Before anything is read."""
    with pytest.raises(ConfigError, match="zero_stage: got 3 for setpeer"):
        small_config(shards, tmp_path, zero_stage=3)


def test_a_used_folder_is_not_overwritten(shards: str, undisturbed: Path) -> None:
    """A second run into it, or a resume with other data, is refused."""
    with pytest.raises(ConfigError, match="add --resume to go on"):
        run_training(small_config(shards, undisturbed, batches_per_step=2))
    with pytest.raises(ConfigError, match="not those the run was started with"):
        run_training(replace(small_config(shards, undisturbed, batches_per_step=2, seed=1), resume=True))
