"""`emostream train` when a disk fills, a shard vanishes or a Ray worker dies."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from cluster.cli import main
from tests import ROOT
from tests.worlds.training import small_values, write_training_world

MAX_FILE_BYTES = 20_000  # a checkpoint's state is larger, everything written before it is smaller


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def start(
    values: dict[str, Any], *options: str, before: Callable[[], None] | None = None
) -> subprocess.Popen[str]:
    file = Path(values["out"]).with_suffix(".yaml")
    file.write_text(yaml.safe_dump(values))

    return subprocess.Popen(
        [sys.executable, "-m", "cluster", "train", "--config", str(file), *options],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=before,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=280)
    return process.returncode, output


def losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def forbid_large_files() -> None:
    # Why ignored: the write must fail, as it does on a full disk, and not the process.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_FILE_BYTES, MAX_FILE_BYTES))


def test_a_checkpoint_that_cannot_be_written_stops_the_run(shards: str, tmp_path: Path) -> None:
    """A failed write gives status 4, what is safe, and the remedy; then the run resumes."""
    before = small_values(shards, tmp_path / "before", "finetune", num_steps=1, validate_every=1)
    # Why a run before: at first use, DeepSpeed compiles its extension into files over the limit.
    assert finish(start(before))[0] == 0

    values = small_values(shards, tmp_path / "full", "finetune", num_steps=6, validate_every=6)
    status, output = finish(start(values, before=forbid_large_files))
    assert status == 4, output
    assert "cannot write" in output
    assert "0 of 6 steps are safe" in output
    assert "--resume" in output
    assert "Traceback" not in output
    assert not list((tmp_path / "full" / "checkpoints").glob("step-*"))

    assert main(["train", "--config", str(tmp_path / "full.yaml"), "--resume"]) == 0
    assert sorted(losses(tmp_path / "full")) == [1, 2, 3, 4, 5, 6]


def test_a_vanished_shard_stops_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shard that is emptied during a run is named, and the last checkpoint is whole.

    When the shard is back, the run resumes.
    """
    shards = write_training_world(tmp_path / "packed")
    shard = tmp_path / "packed" / "train-000000.tar"
    kept = shard.read_bytes()

    out = tmp_path / "run"
    values = small_values(shards, out, "finetune", num_steps=100_000, validate_every=100_000)
    values["data"]["cache_mib"] = 0  # with a cache, nothing would be read after the first epoch

    process = start(values)
    wait_for(lambda: list((out / "checkpoints").glob("step-*")), process)

    shard.write_bytes(b"")
    status, output = finish(process)
    assert status == 4, output
    assert str(shard) in output
    assert "Traceback" not in output

    step = max(int(path.name[5:]) for path in (out / "checkpoints").glob("step-*"))
    assert f"{step} of 100000 steps are safe" in output

    shard.write_bytes(kept)
    shorter = ["--set", f"engine.num_steps={step + 2}", "--set", "engine.extend=rewarm"]
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--resume", *shorter]) == 0
    assert max(losses(out)) == step + 2
    assert "best at step" in capsys.readouterr().out


@pytest.mark.slow
def test_a_killed_ray_worker_is_started_again(shards: str, tmp_path: Path) -> None:
    """A run with a killed worker goes on from its checkpoint, on the curve of a single process.

    The workers are given a relative path to the shards, as people write them.
    """
    engine: dict[str, Any] = {"num_steps": 120, "batches_per_step": 2, "validate_every": 200}
    alone, out = tmp_path / "alone", tmp_path / "shared"
    assert finish(start(small_values(shards, alone, "setpeer", **engine)))[0] == 0

    process = start(
        small_values(os.path.relpath(shards, ROOT), out, "setpeer", **engine) | {"num_workers": 2}
    )
    wait_for(lambda: list((out / "checkpoints").glob("step-*")), process)

    family = psutil.Process(process.pid).children(recursive=True)
    workers = [
        child for child in family if any("RayTrainWorker" in word for word in child.cmdline())
    ]
    assert len(workers) == 2
    workers[1].send_signal(signal.SIGKILL)

    status, output = finish(process)
    assert status == 0, output
    assert "train: 120 of 120 steps" in output
    assert len(list((out / "tensorboard").glob("events.*"))) == 2  # written by two attempts
    assert sorted(losses(out)) == list(range(1, 121))
    assert losses(out) == pytest.approx(losses(alone), rel=1e-3)


@pytest.mark.slow
def test_ray_workers_that_cannot_work_say_why(shards: str, tmp_path: Path) -> None:
    """A cluster that is too small and a used folder are refused at once.

    What the workers refuse comes back as one line.
    """
    values = small_values(shards, tmp_path / "large", "finetune", batches_per_step=64) | {
        "num_workers": 64
    }
    status, output = finish(start(values))
    assert status == 2, output
    assert "--num-workers: got 64, the cluster has" in output

    broken = small_values(shards, tmp_path / "broken", "finetune", batches_per_step=2) | {
        "num_workers": 2
    }
    broken["data"]["target"] = {"kind": "values", "values": ["no_such_field"]}
    status, output = finish(start(broken))
    assert status == 2, output
    assert "no_such_field" in output
    assert "Traceback" not in output

    (tmp_path / "broken" / "checkpoints" / "step-00000004").mkdir(parents=True)
    status, output = finish(start(broken))
    assert status == 2, output
    assert "add --resume to go on" in output


@pytest.mark.slow
def test_what_one_ray_worker_refuses_ends_all(shards: str, tmp_path: Path) -> None:
    """When the first worker refuses, the run ends with its message, and nobody waits.

    Only this worker clusters: here there are more clusters than frames.
    """
    values = small_values(shards, tmp_path / "run", "tapt", batches_per_step=2) | {"num_workers": 2}
    values["model"] = {"num_labels": 60_000, "min_samples": 1600, "cluster_frames": 500}
    status, output = finish(start(values))
    assert status == 2, output
    assert "num_labels: got 60000, but the shards have 500 frames to cluster" in output


def test_a_tracker_that_is_missing_is_refused_at_once(
    shards: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing tracker is refused before a folder is made or a worker started."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    out = tmp_path / "run"
    options = ["finetune", "--shards", shards, "--out", str(out), "--set", "engine.trackers=mlflow"]

    assert (
        main(["train", *options, "--num-workers", "2", "--set", "engine.batches_per_step=2"]) == 2
    )
    assert "mlflow is not installed; `pip install mlflow`" in capsys.readouterr().err
    assert not out.exists()
