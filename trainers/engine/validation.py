"""The model's scores of a task's validation utterances, computed by all ranks together.

Shapes: N utterances, W numbers an utterance.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as distributed
from numpy.typing import NDArray

from shards.loading.loader import read_once
from trainers.task import Task, TrainingModel

Scores = tuple[NDArray[np.int64], NDArray[np.float32]]  # rows [N] and their scores [N, W]


def validation_scores(task: Task, model: TrainingModel, device: torch.device) -> Scores:
    """Rows and scores of every validation utterance, in the order of rows; every rank calls it and
    gets all.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    rows = [np.empty(0, dtype=np.int64)]
    scores = [np.empty((0, task.score_width), dtype=np.float32)]

    model.eval()
    batches = read_once(
        task.validation_reader(), task.validation_batches(), rank=rank, world_size=world_size
    )
    for batch in batches:
        found = model.scores(batch.to(device)).float().cpu().numpy()
        if batch.number >= 0:  # else it repeats another rank's, so that all ranks compute as often
            rows.append(batch.rows.numpy())
            scores.append(found)

    parts: list[Any] = [None] * world_size
    distributed.all_gather_object(parts, (np.concatenate(rows), np.concatenate(scores)))
    return _join(parts)


def _join(parts: Iterable[Scores]) -> Scores:
    """Rows and scores of all ranks, in the order of rows."""
    rows, scores = zip(*parts, strict=True)
    all_rows = np.concatenate(rows)
    order = np.argsort(all_rows, kind="stable")

    return all_rows[order], np.concatenate(scores)[order]
