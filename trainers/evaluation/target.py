"""What every kind of target must say of itself, and what all targets of probabilities share.

Reading finished metrics needs no torch, so torch and the losses are imported only where they are
used.

Shapes: N utterances, C classes, V values, W either C or V.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import TargetConfig, TargetKind, Targets
from trainers.evaluation.metrics import Scores
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest

if TYPE_CHECKING:
    from torch import Tensor

# The content of metrics.json.
Metrics = Mapping[str, Any]


class Target(ABC):
    """One kind of target. `names` are the names of its classes or of its values.

    `learned` says which field of the json a model learned, and which labels counted as another.
    `best_figure` is the figure of a validation that decides which model is best. `wanted_in_json`
    stands before the names in the error "no utterance has one of anger, neutral".
    """

    kind: ClassVar[TargetKind]
    best_figure: ClassVar[str]
    wanted_in_json: ClassVar[str]

    def __init__(self, names: Sequence[str], learned: TargetConfig | None = None) -> None:
        self.names = tuple(names)
        # None for a model that does not name its target (exported before 2026-11-26).
        self.learned = self.by_default if learned is None else learned

    @property
    @abstractmethod
    def by_default(self) -> TargetConfig:
        """The target of a model that does not name its own (exported before 2026-11-26)."""

    @abstractmethod
    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """The loss of the model's scores against a batch's targets of this kind.

        `class_weights` [C] weighs classes, `row_weights_N` weighs utterances; None: all alike.
        """

    @abstractmethod
    def class_weights(self, targets: Targets) -> "Tensor | None":
        """The inverse frequencies of the classes [C]; None for a target without classes."""

    @abstractmethod
    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """The probabilities or values [N, W] that the model's scores stand for."""

    @abstractmethod
    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The targets that answers are compared with, and their name for people."""

    @abstractmethod
    def unknown_truths(self, index: CorpusIndex) -> dict[str, int]:
        """How many utterances of `index` state each class that is none of `names`."""

    @abstractmethod
    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> Scores:
        """The figures of `answers` [N, W] against `targets`, which must all be known.

        They are computed over all utterances, and over the speakers [N] of the utterances.
        """

    @abstractmethod
    def intervals(
        self,
        scores: Scores,
        targets: Targets,
        answers: NDArray[np.float32],
        speakers: NDArray[np.object_],
        *,
        seed: int,
    ) -> dict[str, Any]:
        """The interval over speakers of each figure of `scores`, by the figure's name."""

    @abstractmethod
    def shown_intervals(self, metrics: Metrics) -> dict[str, Sequence[float | None]]:
        """The intervals of metrics.json by the names of `figures`, where they have one."""

    def one_vs_rest(self, targets: Targets, answers: NDArray[np.float32]) -> OneVsRest | None:
        """The answers [N, W] class by class, with their truth; None for a target without classes.

        All `targets` must be known.
        """
        return None

    @abstractmethod
    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """Truth and answers as columns of a table with one row per utterance.

        The truth is null where it is not known.
        """

    @abstractmethod
    def figures(self, metrics: Metrics) -> dict[str, float]:
        """The figures of metrics.json by the names that the papers use."""


class ProbabilityTarget(Target):
    """A target whose answers are probabilities of classes, learned from distributions over them."""

    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """The cross-entropy of the scores (logits) with distributions over the classes."""
        from trainers.models.losses import soft_cross_entropy

        probs_NC = targets[self.kind]
        weights_C = None if class_weights is None else class_weights.to(probs_NC.device)
        return soft_cross_entropy(scores_NW, probs_NC, weights_C, row_weights_N)

    def class_weights(self, targets: Targets) -> "Tensor | None":
        """The inverse frequencies of the classes [C]."""
        import torch

        from trainers.models.losses import balanced_class_weights

        return balanced_class_weights(torch.from_numpy(targets.array.sum(axis=0)))

    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """The probability of each class [N, C]."""
        return scores_NW.softmax(dim=-1)


def score_columns(names: Sequence[str], answers: NDArray[np.float32]) -> dict[str, pa.Array]:
    """One column `score_NAME` for each of `names`, from `answers` [N, W]."""
    return {f"score_{name}": pa.array(answers[:, place]) for place, name in enumerate(names)}
