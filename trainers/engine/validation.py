"""The model's scores of all validation utterances of a task, computed by all ranks together.

Shapes: N utterances, W scores of an utterance.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from shards.loading.loader import read_once
from trainers.task import Task, TrainingModel

# The rows [N] of some utterances, and the scores [N, W] of these utterances.
Scores = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Validated:
    """The figures of the validation after `step`; `objective` decides which model is best."""

    step: int
    figures: Mapping[str, float]
    objective: float


# Called after a validation, when whatever it led to is written.
OnValidation = Callable[[Validated], None]


def unwatched(validated: Validated) -> None:
    """Do nothing: for runs whose validations nobody waits for."""


def validation_scores(task: Task, model: TrainingModel, device: torch.device) -> Scores:
    """The rows and scores of all validation utterances, sorted by row.

    Every rank calls this, computes a part of the batches, and gets the scores of all of them.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    # Each list begins with an empty array, because a rank may keep no batch at all (see below), and
    # numpy cannot concatenate an empty list.
    rows = [np.empty(0, dtype=np.int64)]
    scores = [np.empty((0, task.score_width), dtype=np.float32)]

    model.eval()
    batches = read_once(
        task.validation_reader(), task.validation_batches(), rank=rank, world_size=world_size
    )
    for batch in batches:
        found = model.scores(batch.to(device)).float().cpu().numpy()
        # A batch with the number -1 repeats a batch of another rank. It is computed only so that
        # all ranks call the model equally often, and its scores are dropped.
        if batch.number >= 0:
            rows.append(batch.rows.numpy())
            scores.append(found)

    parts: list[Any] = [None] * world_size
    distributed.all_gather_object(parts, (np.concatenate(rows), np.concatenate(scores)))
    return _join(parts)


def _join(parts: Iterable[Scores]) -> Scores:
    """Put the rows and scores of all ranks together, sorted by row.

    Without the sort, the order would depend on the number of ranks.
    """
    rows, scores = zip(*parts, strict=True)
    all_rows = np.concatenate(rows)
    order = np.argsort(all_rows, kind="stable")

    return all_rows[order], np.concatenate(scores)[order]
