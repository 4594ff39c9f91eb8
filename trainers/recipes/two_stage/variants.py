"""Chooses the task of a run by `model.architecture`, and by how branches are joined."""

from shards.loading.index import CorpusIndex
from trainers.recipes.recipe import Run
from trainers.recipes.two_stage.average import AverageTask
from trainers.recipes.two_stage.config import TwoStageOptions
from trainers.recipes.two_stage.task import TwoStageTask


def make_task(run: Run, options: TwoStageOptions, corpus: CorpusIndex) -> TwoStageTask:
    """The task of a run; one that only averages has no gradient steps (`FittedTask`)."""
    kind = AverageTask if options.join == "average" else TwoStageTask
    return kind(run, options, corpus)
