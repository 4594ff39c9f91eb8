"""What a recipe hands to the engine: a task, and the model that the task builds.

A task gives the model with its loss, the batches, the validation and the export. The engine knows
nothing else about a recipe. A recipe without gradient steps hands over a `FittedTask` in its place.

Shapes: N utterances, W scores of an utterance.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from shards.config import ConfigError
from shards.loading.batch_plan import BatchPlan, PlannedBatch
from shards.loading.loader import Batch, BatchReader


class TrainingModel(nn.Module, ABC):
    """A model with its loss."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss by name, each averaged over the batch.

        All terms are logged. Training minimizes the term that is called `loss`.
        """

    @abstractmethod
    def scores(self, batch: Batch) -> Tensor:
        """The scores [N, W] that validation compares with the targets, one row per utterance."""

    def batch_weight(self, batch: Batch) -> float:
        """How much `batch` counts in the mean over the batches of its step: by its utterances.

        The engine draws the same random numbers before this as before `forward`. With the weight
        that a term is averaged over, each utterance (or frame) counts the same, whatever else its
        batch holds.
        """
        return float(len(batch))

    def preview(self, batch: Batch) -> Tensor | None:
        """What the loss of the step's other batches has to know of this batch: rows of numbers.

        None, for a loss that is a mean over utterances. The engine then does not look ahead.
        """
        return None

    def see_rest_of_step(self, rest: Tensor | None, num_batches: int) -> None:
        """Be told, before `forward`, the rows of `preview` of the step's other batches.

        `num_batches` counts the batches of the step, by which the engine divides gradients.
        """

    def spared_parameters(self) -> Collection[str]:
        """The names, as in `named_parameters`, of parameters that weight decay leaves alone."""
        return ()

    def checkpoint_gradients(self) -> None:
        """Make every later backward pass compute the layers again in place of keeping their values.

        Raises ConfigError for a model that cannot do so.
        """
        raise ConfigError(
            f"engine.gradient_checkpointing: {type(self).__name__} cannot compute its layers "
            "again; leave the option out"
        )

    def after_step(self, step: int) -> None:
        """Do what follows optimizer step number `step` (from 1); every rank calls this."""


class Task(Protocol):
    """One training task. Every rank makes an equal task."""

    @property
    def identity(self) -> str:
        """A text that names the stream of training batches.

        A position that was saved in one stream means nothing in a stream of another identity.
        """

    @property
    def corpus_digest(self) -> str:
        """The digest of the whole corpus, which the result of a run states."""

    @property
    def num_workers(self) -> int:
        """The number of processes that decode training batches; 0: a thread decodes them."""

    @property
    def score_width(self) -> int:
        """W, the number of scores of an utterance."""

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """Make what the model needs before it is built, for example pseudo-labels below `out`.

        Every rank calls this, and a rank may wait in it for the others. `say` shows progress.
        """

    def training_reader(self) -> BatchReader:
        """The reader of training batches."""

    def validation_reader(self) -> BatchReader:
        """The reader of validation batches."""

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """The keys of the training utterances `rows`."""

    def plan(self) -> BatchPlan:
        """The batches of every epoch of training, in order."""

    def validation_batches(self) -> list[PlannedBatch]:
        """The batches of a validation."""

    def build_model(self) -> TrainingModel:
        """A model with the same weights on every rank."""

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """The figures of a validation: `scores` [N, W] are those of the utterances `rows` [N]."""

    def objective(self, figures: Mapping[str, float]) -> float:
        """The figure that decides which checkpoint is best; higher is better."""

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the trained model into `folder`, where `from_pretrained` can read it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One solution of a fitted task: a model, and its figures on the validation split.

    `setting` is what it was fitted with, for example {"regularization": 0.1}.
    """

    setting: Mapping[str, float]
    figures: Mapping[str, float]
    model: TrainingModel


@runtime_checkable
class FittedTask(Protocol):
    """A task that is solved without gradient steps, once for each setting that is tried."""

    @property
    def corpus_digest(self) -> str:
        """The digest of the whole corpus, which the result of a run states."""

    @property
    def num_candidates(self) -> int:
        """How many settings are tried."""

    def measure(self, say: Callable[[str], None]) -> None:
        """Measure the utterances. Every rank calls this, and a rank may wait in it for others."""

    def candidates(self) -> Iterator[Candidate]:
        """A solution for each setting; the first rank alone calls this, after `measure`.

        The model of a candidate is valid until the next candidate is asked for.
        """

    def objective(self, figures: Mapping[str, float]) -> float:
        """The figure that decides which candidate is best; higher is better."""

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the model into `folder`, where `from_pretrained` can read it."""
