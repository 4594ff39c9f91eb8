"""What the engine trains: a model with a loss, its batches, its validation, and what of it is
exported.

The engine knows nothing else of a recipe.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

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
        """Named terms, each averaged over the batch, of which `loss` is minimized."""

    @abstractmethod
    def scores(self, batch: Batch) -> Tensor:
        """[N, W]: what validation compares, one row an utterance."""

    def spared_parameters(self) -> Collection[str]:
        """Parameters, as `named_parameters` calls them, that weight decay leaves alone."""
        return ()

    def checkpoint_gradients(self) -> None:
        """From now on, compute layers again in the backward pass. Raises ConfigError where the
        model cannot.
        """
        raise ConfigError(
            f"engine.gradient_checkpointing: {type(self).__name__} cannot; leave it out"
        )

    def after_step(self, step: int) -> None:
        """Called by every rank after optimizer step number `step` (from 1)."""


class Task(Protocol):
    """One training task. Every rank makes the same."""

    @property
    def identity(self) -> str:
        """What a position in the stream of batches belongs to."""

    @property
    def corpus_digest(self) -> str:
        """The digest of the whole corpus, which results name."""

    @property
    def num_workers(self) -> int:
        """Processes that decode training batches; 0: a thread beside the training."""

    @property
    def score_width(self) -> int:
        """W, numbers an utterance in `scores`."""

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """What has to be there before the model is built; every rank calls it, and may wait for
        others in it.
        """

    def training_reader(self) -> BatchReader:
        """Reads training batches."""

    def validation_reader(self) -> BatchReader:
        """Reads validation batches."""

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """The training utterances `rows` by name."""

    def plan(self) -> BatchPlan:
        """The order of training."""

    def validation_batches(self) -> list[PlannedBatch]:
        """What is validated on."""

    def build_model(self) -> TrainingModel:
        """A model with the same weights on every rank."""

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Figures on the validation utterances `rows` from their `scores` [N, W]."""

    def objective(self, figures: Mapping[str, float]) -> float:
        """The number that decides which checkpoint is best; higher is better."""

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write what was trained so that `from_pretrained` reads it."""
