"""`emostream train --folds all`: a model for each fold, in OUT/fold-N.

Each fold is a run of its own, so it can be resumed and evaluated by itself. On a cluster the folds
are trained side by side, elsewhere one after the other. A fold that fails leaves the others. With
--resume, finished folds stay as they are, and the others go on or begin.
"""

import os
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cluster.exit_status import ExitStatus
from cluster.training.ending import Ending, shown_result
from cluster.training.folds_on_ray import train_side_by_side
from shards.config import ConfigError
from shards.loading.folds import num_folds
from shards.loading.index import read_index
from trainers.config import TrainConfig
from trainers.engine.checkpoints import refuse_used_folder
from trainers.resuming import is_finished

Say = Callable[[str], None]


def train_folds(config: TrainConfig, train: Callable[[TrainConfig], Ending], say: Say) -> int:
    """Train all folds, with `train` where there is no cluster, and return the exit status.

    Says the command that measures the folds together. Raises ConfigError when the corpus cannot be
    divided as asked, or when all folds are refused.
    """
    index = read_index(config.shards, needs_speakers=config.recipe_config().needs_speakers)
    number = num_folds(index, config.data.folds)
    runs = {
        fold: replace(
            config,
            folds=None,
            out=str(Path(config.out) / f"fold-{fold}"),
            data=replace(config.data, fold=fold),
        )
        for fold in range(number)
    }

    todo = {fold: run for fold, run in runs.items() if not is_finished(run, index.digest)}
    for run in todo.values():
        refuse_used_folder(Path(run.out), resume=run.resume)
    if len(todo) < number:
        say(f"{number - len(todo)} of {number} folds are finished already\n")

    endings = (
        train_side_by_side(todo, number) if is_on_cluster(config) else _in_turn(todo, train, say)
    )
    for fold, end in endings.items():
        if end.result is not None:
            say(f"fold {fold}: {shown_result(end.result)}\n")
    unfinished = {fold: end for fold, end in endings.items() if end.kind != "done"}
    if unfinished:
        return _explained(unfinished, number)

    best = " ".join(f"{run.out}/best" for run in runs.values())
    say(
        f"{number} folds are trained; measure them together with `emostream evaluate --checkpoint "
        f"{best} --shards '{config.shards}' --out {config.out}/evaluation`\n"
    )
    return ExitStatus.DONE


def is_on_cluster(config: TrainConfig) -> bool:
    """Whether runs go to Ray: to --address, to the cluster that this job was submitted to, or,
    with several workers, to a Ray of this machine.
    """
    return bool(config.address or os.environ.get("RAY_ADDRESS") or config.num_workers > 1)


def _in_turn(
    runs: Mapping[int, TrainConfig], train: Callable[[TrainConfig], Ending], say: Say
) -> dict[int, Ending]:
    endings = {}
    for fold, run in runs.items():
        say(f"fold {fold} in {run.out}\n")
        endings[fold] = train(run)

    return endings


def _explained(unfinished: Mapping[int, Ending], number: int) -> int:
    """Name the folds that are not trained, with the reasons, and return the exit status."""
    folds_by_reason: dict[str, list[str]] = defaultdict(list)
    for fold, end in unfinished.items():
        folds_by_reason[end.reason].append(str(fold))

    is_refused = all(end.kind == "refused" for end in unfinished.values())
    if is_refused and len(folds_by_reason) == 1 and len(unfinished) == number:
        raise ConfigError(next(iter(folds_by_reason)))

    for reason, folds in folds_by_reason.items():
        sys.stderr.write(f"emostream train: fold {', '.join(folds)}: {reason}\n")
    sys.stderr.write(
        f"{len(unfinished)} of {number} folds are not trained; remove the cause, then run the same "
        "command with --resume: finished folds stay, the others go on or begin\n"
    )
    return ExitStatus.USAGE if is_refused else ExitStatus.UNFINISHED
