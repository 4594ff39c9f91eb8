"""Trains as the options of `emostream train` say: the recipe's task is handed to the engine."""

from pathlib import Path
from typing import Any

import torch.distributed as distributed
from transformers.utils import logging as transformers_logging

from shards.loading.folds import divided
from shards.loading.index import CorpusIndex, read_index
from shards.loading.shared_speakers import require_unshared
from shards.progress import OnProgress, unseen
from trainers.config import TrainConfig
from trainers.engine.checkpoints import is_begun, refuse_used_folder
from trainers.engine.fitting import FittingRun
from trainers.engine.process_group import join_group
from trainers.engine.ranks import on_every_rank, on_first_rank
from trainers.engine.run import TrainingResult, TrainingRun
from trainers.engine.tracking import require_trackers
from trainers.engine.validation import OnValidation, unwatched
from trainers.recipes.registry import recipe_called
from trainers.resuming import refuse_another_run, resolved_options, write_config
from trainers.task import FittedTask, Task


def run_training(
    config: TrainConfig,
    on_step: OnProgress = unseen,
    on_validation: OnValidation = unwatched,
) -> TrainingResult:
    """Train from the start, or from the newest checkpoint. Every rank calls this; rank 0 writes.

    Raises ConfigError for options or data that cannot be trained with, and OSError when the disk
    fails. A run that the disk has stopped can be resumed.
    """
    # transformers would show one progress bar for every file that an export saves.
    transformers_logging.disable_progress_bar()
    join_group()
    # Checked again, because under torchrun the options do not know the number of processes.
    config.check_workers(distributed.get_world_size())
    on_first_rank(lambda: _refuse_what_cannot_be(config))

    corpus = on_every_rank(lambda: read_corpus(config))
    task = on_every_rank(lambda: make_task(config, corpus))
    parameters = dict(resolved_options(config))
    out = Path(config.out)
    watch: dict[str, Any] = {"on_step": on_step, "on_validation": on_validation}
    run: FittingRun | TrainingRun
    if isinstance(task, FittedTask):
        run = FittingRun(config.engine, out, task, parameters=parameters, **watch)
    else:
        run = TrainingRun(config.engine, out, task, parameters=parameters, **watch)

    run.restore()
    # Written only now, because nothing above has refused the run: a refused run must leave the
    # folder as it was.
    on_first_rank(lambda: write_config(out, config))
    return run.run()


def read_corpus(config: TrainConfig) -> CorpusIndex:
    """The corpus, with the splits that the options ask for.

    Raises ConfigError when a speaker is in several splits and the options do not allow it.
    """
    data = config.data
    index = read_index(config.shards, needs_speakers=config.recipe_config().needs_speakers)
    corpus = divided(index, data.folds, data.fold)
    if not data.allow_shared_speakers:
        require_unshared(corpus, "data.allow_shared_speakers=true")

    return corpus


def make_task(config: TrainConfig, corpus: CorpusIndex) -> Task | FittedTask:
    """The training task of the recipe that `config` names, on the utterances of `corpus`."""
    return recipe_called(config.recipe).make_task(config, config.recipe_config(), corpus)


def _refuse_what_cannot_be(config: TrainConfig) -> None:
    """Raise ConfigError for whatever forbids the run and can be known before a shard is read."""
    out = Path(config.out)
    require_trackers(config.engine.trackers)
    refuse_used_folder(out, resume=config.resume)

    if is_begun(out):
        refuse_another_run(out, config)
