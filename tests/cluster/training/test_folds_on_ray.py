"""Folds side by side on Ray: the models of one after another, and failures that stay alone."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.nodes.session import NodeResources
from cluster.training.shares import Share, share_of
from tests.cluster.training.test_folds import train, write_world

FOLDS = "speaker:3"


def weights(run: Path) -> dict[str, str]:
    """Return the digests of each fold's exported model."""
    return {
        path.parent.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.glob("fold-*/last/model.safetensors"))
    }


@pytest.mark.slow
def test_folds_side_by_side_are_those_one_after_another(
    ray_address: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal to the bit; a fold that fails is named and leaves the others; --resume finishes it."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    # The number of threads decides how sums are rounded; `train` has set it to 1 here.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert train(tmp_path, shards, "--folds", "all", folds=FOLDS) == 0
    in_turn = weights(tmp_path / "run")
    assert len(in_turn) == 3
    shutil.rmtree(tmp_path / "run")

    # A file lies where the second fold would keep its checkpoints.
    (tmp_path / "run" / "fold-1").mkdir(parents=True)
    (tmp_path / "run" / "fold-1" / "tensorboard").write_text("in the way")
    command = ("--folds", "all", "--address", ray_address)
    assert train(tmp_path, shards, *command, folds=FOLDS) == 4

    errors = capsys.readouterr().err
    assert "emostream train: fold 1: " in errors
    assert "1 of 3 folds are not trained" in errors
    assert {name: in_turn[name] for name in ("fold-0", "fold-2")} == weights(tmp_path / "run")

    before = (tmp_path / "run" / "fold-0" / "train.json").stat().st_mtime_ns
    (tmp_path / "run" / "fold-1" / "tensorboard").unlink()
    assert train(tmp_path, shards, *command, "--resume", folds=FOLDS) == 0
    assert weights(tmp_path / "run") == in_turn
    assert (tmp_path / "run" / "fold-0" / "train.json").stat().st_mtime_ns == before

    printed = capsys.readouterr().out
    assert "2 of 3 folds are finished already" in printed
    assert "emostream evaluate --checkpoint" in printed


def test_a_finished_fold_with_more_steps_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished is what has the number of steps that is asked for; other options are refused."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    assert train(tmp_path, shards, "--folds", "all", folds=FOLDS) == 0
    again = ["train", "--config", str(tmp_path / "options.yaml"), "--folds", "all", "--resume"]
    more = ["--set", "engine.num_steps=3", "--set", "engine.extend=rewarm"]
    assert main([*again, *more]) == 0
    steps = [
        json.loads((tmp_path / "run" / f"fold-{fold}" / "train.json").read_text())["steps"]
        for fold in range(3)
    ]
    assert steps == [3, 3, 3]

    assert main([*again, "--set", "engine.seed=5"]) == 2
    assert "engine.seed: got 5, the run was started with 0" in capsys.readouterr().err


def test_a_failed_fold_leaves_the_others_without_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other too."""
    shards = write_world(tmp_path, lambda number: f"s{number}")
    (tmp_path / "run" / "fold-0").mkdir(parents=True)
    (tmp_path / "run" / "fold-0" / "metrics.jsonl").mkdir()
    assert train(tmp_path, shards, "--folds", "all", folds=FOLDS) == 4
    assert "emostream train: fold 0: " in capsys.readouterr().err
    assert sorted(weights(tmp_path / "run")) == ["fold-1", "fold-2"]


@pytest.mark.parametrize(
    ("nodes", "num_runs", "num_workers", "num_threads", "expected"),
    [
        # Two runs on two nodes of four CPUs have a node each; ten runs have a CPU each.
        ([(4, 0), (4, 0)], 2, 1, None, Share(at_once=2, num_cpus=4, num_gpus=0)),
        ([(4, 0), (4, 0)], 10, 1, None, Share(at_once=8, num_cpus=1, num_gpus=0)),
        # Three runs of two CPUs fit on six CPUs and one of four on each node would not.
        ([(4, 0), (2, 0)], 3, 1, None, Share(at_once=3, num_cpus=2, num_gpus=0)),
        # With GPUs, there are as many runs as GPUs, and a node's CPUs are divided among its GPUs.
        ([(16, 4), (8, 0)], 10, 1, None, Share(at_once=4, num_cpus=4, num_gpus=1)),
        # The workers of a run are Ray Train's.
        ([(4, 0), (4, 0)], 10, 3, None, Share(at_once=2, num_cpus=0, num_gpus=0)),
        # A number of threads that is asked for bounds the number of runs.
        ([(4, 0), (4, 0)], 10, 1, 2, Share(at_once=4, num_cpus=2, num_gpus=0)),
    ],
)
def test_the_cluster_is_divided(
    nodes: list[tuple[int, int]],
    num_runs: int,
    num_workers: int,
    num_threads: int | None,
    expected: Share,
) -> None:
    """As many runs at once as there are places, and the CPUs that are left over divided."""
    resources = [NodeResources(float(cpus), float(gpus)) for cpus, gpus in nodes]
    share = share_of(resources, num_runs=num_runs, num_workers=num_workers, num_threads=num_threads)
    assert share == expected
