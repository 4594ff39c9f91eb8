"""One optimizer step: it averages over several batches, and ends a run whose loss is not finite.

The engine that DeepSpeed returns computes each batch. DeepSpeed itself moves the weights after the
last batch of a step.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.distributed as distributed
from torch import Tensor

from shards.config import ConfigError
from shards.loading.loader import Batch
from trainers.engine.batch_statistics import BatchStatistics
from trainers.engine.look_ahead import LookAhead
from trainers.engine.schedules import batch_seed
from trainers.settings.engine import EngineConfig
from trainers.task import Task, TrainingModel


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step computed: `terms` are averaged over the batches of all ranks.

    `num_utterances` counts the utterances in these batches.
    """

    terms: Mapping[str, float]
    num_utterances: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A batch of the present step without its inputs, which would fill the memory."""

    number: int
    rows: Tensor
    loss: Tensor


class Stepper:
    """Takes steps with `model`, which DeepSpeed's `engine` wraps."""

    def __init__(self, engine: Any, model: TrainingModel, task: Task, config: EngineConfig) -> None:
        self._engine, self._model, self._task, self._config = engine, model, task, config
        self._world_size = distributed.get_world_size()
        self._look_ahead = LookAhead(model, seed=config.seed)
        # By now DeepSpeed has moved the model to its device. This order matters, because a model
        # that is moved to a GPU gets new buffers, and the statistics must refer to the new ones.
        self._statistics = BatchStatistics(model)

    def take(self, number: int, batches: Iterator[Batch]) -> StepOutcome:
        """Take step `number` (from 1) with the next of `batches`, which are those of this rank.

        Raises ConfigError on every rank when the loss is not finite.
        """
        num_batches = self._config.batches_per_step
        totals: dict[str, Tensor] = {}
        seen: list[_Seen] = []
        num_utterances = 0

        self._model.train()
        self._statistics.begin_step()

        mine = [
            next(batches).to(self._engine.device) for _ in range(num_batches // self._world_size)
        ]
        for batch, share, rest in self._look_ahead.over(mine):
            self._model.see_rest_of_step(rest, num_batches)
            terms = self._learn(batch, share)

            num_utterances += len(batch)
            seen.append(_Seen(batch.number, batch.rows, terms["loss"].detach()))
            for name, value in terms.items():
                totals[name] = (
                    totals.get(name, torch.zeros((), device=value.device)) + value.detach().float()
                )

        self._model.after_step(number)
        self._statistics.end_step(num_batches)

        outcome = _over_ranks(totals, num_utterances, num_batches)
        if not math.isfinite(outcome.terms["loss"]):
            self._refuse_to_go_on(number, outcome.terms["loss"], seen)
        return outcome

    def _learn(self, batch: Batch, share: float) -> dict[str, Tensor]:
        """Compute one batch forward and backward, and end the step after its last batch.

        Returns the terms of the loss, which count by `share` in the mean over the step.
        """
        # Dropout draws by the number of the batch, so the numbers drawn do not depend on which rank
        # computes the batch or on whether the run was resumed.
        torch.manual_seed(batch_seed(self._config.seed, batch.number))
        found: dict[str, Tensor] = self._engine(batch)
        terms = found if share == 1.0 else {name: share * term for name, term in found.items()}
        self._engine.backward(terms["loss"])

        # DeepSpeed counts the batches and moves the weights only after the last batch of a step.
        self._engine.step()
        self._statistics.end_batch()

        return terms

    def _refuse_to_go_on(self, number: int, loss: float, seen: Sequence[_Seen]) -> NoReturn:
        """Raise ConfigError on every rank, naming all batches whose loss is not finite."""
        mine = [
            f"batch {batch.number} ({', '.join(self._task.keys(batch.rows.numpy(force=True)))})"
            for batch in seen
            if not batch.loss.isfinite()
        ]
        parts: list[Any] = [None] * self._world_size
        distributed.all_gather_object(parts, mine)

        # Each loss may be finite and their sum may still be too large for float32.
        where = (
            "; ".join(sorted(name for part in parts for name in part)) or "the sum over the ranks"
        )

        raise ConfigError(
            f"the loss is {loss} at step {number}, in {where}; look at these utterances, or start "
            "again in another --out with a lower engine.learning_rate or with engine.precision "
            "float32"
        )


def _over_ranks(totals: Mapping[str, Tensor], num_utterances: int, num_batches: int) -> StepOutcome:
    """Average the terms over the batches of all ranks; `totals` are the sums of this rank."""
    # Every rank sorts the names, so that all ranks add up the same terms. The number of utterances
    # travels in the same message, as the last number.
    names = sorted(totals)
    numbers = torch.stack(
        [*(totals[name] for name in names), totals["loss"].new_tensor(num_utterances)]
    )
    distributed.all_reduce(numbers)

    *sums, total_utterances = numbers.tolist()
    terms = {name: value / num_batches for name, value in zip(names, sums, strict=True)}
    return StepOutcome(terms, round(total_utterances))
