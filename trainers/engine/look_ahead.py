"""What all batches of a step hold, found out before the first of them is learned from.

A step averages over its batches. If every batch counted the same, an utterance of a short batch
would weigh more than one of a full batch (.53 to 1.59 of the mean, as was reported), so batches
count by what they hold. A loss that is no mean over utterances, such as the concordance, needs the
predictions of the whole step: they are computed without gradients first, with the same random
numbers. The concordance of each batch alone was left out: a batch holds utterances of similar
length, whose means and variances are not those of the corpus.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from shards.loading.loader import Batch
from trainers.engine.schedules import batch_seed
from trainers.task import TrainingModel


class LookAhead:
    """Looks at the batches of a step before `model` learns from them."""

    def __init__(self, model: TrainingModel, *, seed: int) -> None:
        self._model, self._seed = model, seed
        self._world_size = distributed.get_world_size()

    def over(self, batches: Sequence[Batch]) -> Iterator[tuple[Batch, float, Tensor | None]]:
        """Yield each of this rank's batches with its share and the rows of all others.

        A share is 1 for a batch of mean weight. The rows are those of `preview`, of all ranks.
        """
        if len(batches) * self._world_size == 1:
            yield batches[0], 1.0, None
            return

        weights = [self._weight(batch) for batch in batches]
        # The mean is 0 when no batch has anything to learn from, such as a hidden frame.
        mean = self._mean(weights) or 1.0
        shares = [weight / mean for weight in weights]
        yield from zip(batches, shares, self._rests(batches), strict=True)

    def _weight(self, batch: Batch) -> float:
        torch.manual_seed(batch_seed(self._seed, batch.number))
        return self._model.batch_weight(batch)

    def _mean(self, weights: Sequence[float]) -> float:
        everyone: list[Any] = [None] * self._world_size
        distributed.all_gather_object(everyone, weights)
        return sum(sum(part) for part in everyone) / (len(weights) * self._world_size)

    def _rests(self, batches: Sequence[Batch]) -> list[Tensor | None]:
        """For each batch, the rows of all other batches of the step; None without a preview."""
        previews = [self._preview(batch) for batch in batches]
        if previews[0] is None:
            return [None] * len(batches)

        everyone: list[Any] = [None] * self._world_size
        mine = [rows.cpu() for rows in previews if rows is not None]
        distributed.all_gather_object(everyone, mine)

        rank, device = distributed.get_rank(), batches[0].rows.device
        return [
            torch.cat(
                [
                    rows
                    for other, part in enumerate(everyone)
                    for number, rows in enumerate(part)
                    if (other, number) != (rank, place)
                ]
            ).to(device)
            for place in range(len(batches))
        ]

    @torch.no_grad()
    def _preview(self, batch: Batch) -> Tensor | None:
        # Looking must leave no trace, in running statistics for example.
        before = [buffer.clone() for buffer in self._model.buffers()]
        torch.manual_seed(batch_seed(self._seed, batch.number))
        rows = self._model.preview(batch)

        if rows is not None:
            for buffer, kept in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(kept)
        return rows
