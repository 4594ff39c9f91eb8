"""One optimizer step: the batches it averages over, and the end of a run whose loss is no number
any more.
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
from trainers.engine.schedules import batch_seed
from trainers.settings.engine import EngineConfig
from trainers.task import Task, TrainingModel


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The terms of the loss, averaged over the batches of all ranks, and how many utterances these
    held.
    """

    terms: Mapping[str, float]
    num_utterances: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """A batch of the present step, without its inputs."""

    number: int
    rows: Tensor
    loss: Tensor


class Stepper:
    """Takes steps with a model that DeepSpeed holds as `engine`."""

    def __init__(self, engine: Any, model: TrainingModel, task: Task, config: EngineConfig) -> None:
        self._engine, self._model, self._task, self._config = engine, model, task, config
        self._world_size = distributed.get_world_size()
        self._statistics = BatchStatistics(
            model
        )  # now: a model that is moved to a GPU gets other buffers

    def take(self, number: int, batches: Iterator[Batch]) -> StepOutcome:
        """Step `number` (from 1). Raises ConfigError, on every rank, when the loss is no number."""
        num_batches = self._config.batches_per_step
        totals: dict[str, Tensor] = {}
        seen: list[_Seen] = []
        num_utterances = 0

        self._model.train()
        self._statistics.begin_step()

        for _ in range(num_batches // self._world_size):
            batch = next(batches).to(self._engine.device)
            terms = self._learn(batch)

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

    def _learn(self, batch: Batch) -> dict[str, Tensor]:
        """Forward, backward and, after the last batch of a step, DeepSpeed's update; the terms of
        the loss.
        """
        torch.manual_seed(batch_seed(self._config.seed, batch.number))
        terms: dict[str, Tensor] = self._engine(batch)
        self._engine.backward(terms["loss"])
        self._engine.step()
        self._statistics.end_batch()

        return terms

    def _refuse_to_go_on(self, number: int, loss: float, seen: Sequence[_Seen]) -> NoReturn:
        """Raise ConfigError, on every rank, that names the batches of all ranks whose loss was no
        number.
        """
        mine = [
            f"batch {batch.number} ({', '.join(self._task.keys(batch.rows.numpy(force=True)))})"
            for batch in seen
            if not batch.loss.isfinite()
        ]
        parts: list[Any] = [None] * self._world_size
        distributed.all_gather_object(parts, mine)
        where = (
            "; ".join(sorted(name for part in parts for name in part)) or "the sum over the ranks"
        )

        raise ConfigError(
            f"the loss is {loss} at step {number}, in {where}; look at these utterances, or start "
            "anew in another --out with a lower engine.learning_rate or engine.precision float32"
        )


def _over_ranks(totals: Mapping[str, Tensor], num_utterances: int, num_batches: int) -> StepOutcome:
    """This rank's sums with those of all others."""
    names = sorted(totals)
    numbers = torch.stack(
        [*(totals[name] for name in names), totals["loss"].new_tensor(num_utterances)]
    )
    distributed.all_reduce(numbers)

    *sums, total_utterances = numbers.tolist()
    terms = {name: value / num_batches for name, value in zip(names, sums, strict=True)}
    return StepOutcome(terms, round(total_utterances))
