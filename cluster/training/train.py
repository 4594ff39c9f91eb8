"""`emostream train`: one process here, or several Ray Train workers, which run the same code.

Under torchrun, every process calls it. Ray Train places the workers and, after a death, starts them
again a bounded number of times; they go on from the newest complete checkpoint. The first worker's
messages come back through a Ray queue, because Ray Train's own reports reach the driver only with
checkpoints of its own kind.
"""

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.exit_status import ExitStatus
from cluster.progress import progress
from cluster.training.ending import Ending, WorkersFailedError, ending_of, shown_result
from cluster.training.folds import train_folds
from cluster.training.on_ray import train_on_ray
from shards.errors import JSON_CODES, BadShard
from trainers.config import TrainConfig
from trainers.engine.checkpoints import CHECKPOINTS_NAME, CheckpointFolder, read_progress
from trainers.engine.tracking import require_trackers

if TYPE_CHECKING:
    from trainers.engine.run import TrainingResult  # with torch, which the help text does not need


def run_train(config: TrainConfig) -> int:
    """Run `emostream train`: train one model, or one for each fold, and print the results."""
    # Why first: a missing tracker must be reported before a cluster is started.
    require_trackers(config.engine.trackers)
    os.environ.setdefault("DS_ACCELERATOR", _accelerator())

    try:
        if config.sweep is not None:
            # Why here: it imports Ray.
            from cluster.training.sweep_on_ray import run_sweep

            return run_sweep(config, config.sweep, _say)
        return _train(config) if config.folds is None else train_folds(config, _train_fold, _say)
    except KeyboardInterrupt:
        # Without --resume, the folder would be refused, because it holds checkpoints.
        sys.stderr.write(
            "\ninterrupted; run the same command with --resume to go on from the newest "
            "checkpoint\n"
        )
        return ExitStatus.INTERRUPTED


def _train(config: TrainConfig) -> int:
    try:
        train = train_on_ray if config.num_workers > 1 or config.address else train_here
        result = train(config)
    except BadShard as error:
        # A damaged file can be restored. What a json says wrongly needs another import.
        if error.code in JSON_CODES:
            raise
        return _stopped(config, error)
    except (OSError, WorkersFailedError) as error:
        return _stopped(config, error)

    _say(_summary(config, result))
    return 0


def _train_fold(config: TrainConfig) -> Ending:
    return ending_of(lambda: train_here(config))


def _stopped(config: TrainConfig, error: Exception) -> int:
    """Say why training stopped, and what is safe."""
    sys.stderr.write(f"emostream train: stopped: {error}\n{_what_remains(config)}\n")
    return ExitStatus.UNFINISHED


def train_here(config: TrainConfig) -> "TrainingResult":
    """Train in this process, which is one of several under torchrun."""
    from trainers.training import run_training

    if not _is_first():
        return run_training(config)
    with progress("train", "steps") as update:
        return run_training(config, update)


def _what_remains(config: TrainConfig) -> str:
    checkpoint = CheckpointFolder(Path(config.out) / CHECKPOINTS_NAME).newest()
    saved = read_progress(checkpoint)["reached"]["step"] if checkpoint is not None else 0
    return (
        f"{saved}{_of_all(config)} steps are safe in {config.out}/checkpoints; remove the cause "
        "(make room, restore the files), then run the same command with --resume to go on from "
        "there"
    )


def _of_all(config: TrainConfig) -> str:
    return "" if config.engine.num_epochs else f" of {config.engine.max_steps}"


def _summary(config: TrainConfig, result: "TrainingResult") -> str:
    return (
        f"{shown_result(asdict(result))}\nmodel in {config.out}/best, numbers in "
        f"{config.out}/metrics.jsonl, curves in {config.out}/tensorboard\n"
    )


def _say(text: str) -> None:
    """Print once, however many processes torchrun started."""
    if _is_first():
        sys.stdout.write(text)


def _is_first() -> bool:
    """Whether this process speaks for all processes that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _accelerator() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
