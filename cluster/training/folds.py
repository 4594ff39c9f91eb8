"""`emostream train --folds all`: a model for each fold, one after the other, in OUT/fold-N.

Each fold is a run of its own, so it can be resumed and evaluated by itself. With --resume, finished
folds stay as they are, and the others go on or begin.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.exit_status import ExitStatus
from shards.loading.folds import num_folds
from shards.loading.index import read_index
from trainers.config import TrainConfig


def train_folds(
    config: TrainConfig, train: Callable[[TrainConfig], int], say: Callable[[str], None]
) -> int:
    """Train all folds with `train`, and `say` the command that measures them together.

    Stops at the first fold that `train` does not finish, with its exit status. Raises ConfigError
    when the corpus cannot be divided as asked.
    """
    index = read_index(config.shards, needs_speakers=config.recipe_config().needs_speakers)
    number = num_folds(index, config.data.folds)
    outs = [str(Path(config.out) / f"fold-{fold}") for fold in range(number)]

    for fold, out in enumerate(outs):
        say(f"fold {fold} of {number} in {out}\n")
        data = replace(config.data, fold=fold)
        status = train(replace(config, folds=None, out=out, data=data))
        if status != ExitStatus.DONE:
            return status

    best = " ".join(f"{out}/best" for out in outs)
    say(
        f"{number} folds are trained; measure them together with `emostream evaluate --checkpoint "
        f"{best} --shards '{config.shards}' --out {config.out}/evaluation`\n"
    )
    return ExitStatus.DONE
