"""What a model answers, as one object: what fits it, what its answers are, and how they are scored
and written down.

Classes of any vocabulary and values are there; another kind of target is another class here. What
is only read from finished metrics needs no torch, so losses are imported where they are computed.

Shapes: N utterances, C classes, V values, W either.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import TargetConfig, TargetKind, Targets, read_targets
from trainers.evaluation.metrics import ClassScores, ValueScores, score_classes, score_values

if TYPE_CHECKING:
    from torch import Tensor

Metrics = Mapping[str, Any]  # what metrics.json holds


class Target(ABC):
    """One kind of target, of the classes or numbers `names`."""

    kind: ClassVar[TargetKind]
    best_figure: ClassVar[str]  # which of a validation's figures decides which model is best
    wanted_in_json: ClassVar[str]  # what an utterance has that `names` follow

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)

    @property
    @abstractmethod
    def by_default(self) -> TargetConfig:
        """What a model learned that does not say (exported before 2026-11-26)."""

    @abstractmethod
    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """How far the model's scores are from a batch's target of this kind; rows may be
        weighted.
        """

    @abstractmethod
    def class_weights(self, targets: Targets) -> "Tensor | None":
        """Inverse frequencies of the classes [C]; None for what has no classes."""

    @abstractmethod
    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """Probabilities, or values, from the model's scores."""

    @abstractmethod
    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """What answers are compared with, and its name for people."""

    @abstractmethod
    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> ClassScores | ValueScores:
        """The figures of answers [N, W] to known `targets`, over all utterances and over speakers
        [N].
        """

    @abstractmethod
    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """Truth and answers as columns of a table, a row an utterance; null where the truth is not
        known.
        """

    @abstractmethod
    def figures(self, metrics: Metrics) -> dict[str, float]:
        """The figures of metrics.json under the papers' names."""


class ClassTarget(Target):
    """One of some classes: cross-entropy against distributions; accuracy and macro-F1."""

    kind = "classes"
    best_figure = "macro_f1"
    wanted_in_json = "one of"

    FIGURES: ClassVar[Mapping[str, str]] = {
        "accuracy": "ACC",
        "speaker_accuracy": "A-ACC",
        "speaker_accuracy_std": "A-ACC std",
        "macro_f1": "F1",
        "speaker_f1": "A-F1",
        "speaker_f1_std": "A-F1 std",
    }

    @property
    def by_default(self) -> TargetConfig:
        """The weak label."""
        return TargetConfig()

    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """Cross-entropy."""
        from trainers.models.losses import soft_cross_entropy

        probs_NC = targets[self.kind]
        weights_C = None if class_weights is None else class_weights.to(probs_NC.device)
        return soft_cross_entropy(scores_NW, probs_NC, weights_C, row_weights_N)

    def class_weights(self, targets: Targets) -> "Tensor | None":
        """Inverse frequencies [C]."""
        import torch

        from trainers.models.losses import balanced_class_weights

        return balanced_class_weights(torch.from_numpy(targets.array.sum(axis=0)))

    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """Probabilities."""
        return scores_NW.softmax(dim=-1)

    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The true emotion where it is known, else the weak label."""
        has_truth = any(emotion is not None for emotion in index.table["emotion"].to_pylist())
        config = TargetConfig(kind="emotion" if has_truth else "label")

        return read_targets(
            index, config, self.names
        ), "true emotion" if has_truth else "weak label"

    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> ClassScores | ValueScores:
        """Of the likeliest class."""
        return score_classes(targets.labels, answers.argmax(axis=1), speakers, self.names)

    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """`truth`, `predicted`, and the score of each class."""
        names = np.asarray(self.names, dtype=object)
        return {
            "truth": pa.array(names[targets.labels], pa.string(), mask=~targets.known),
            "predicted": pa.array(names[answers.argmax(axis=1)]),
            **_score_columns(self.names, answers),
        }

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """ACC, A-ACC, F1, A-F1."""
        return {shown: float(metrics["scores"][name]) for name, shown in self.FIGURES.items()}


class ValueTarget(Target):
    """Numbers: 1 - CCC; CCC over utterances and over speakers."""

    kind = "values"
    best_figure = "ccc"
    wanted_in_json = "numbers in its json called"

    FIGURES: ClassVar[Mapping[str, str]] = {
        "overall": "O-CCC",
        "over_speakers": "A-CCC",
        "over_speakers_std": "A-CCC std",
    }

    @property
    def by_default(self) -> TargetConfig:
        """The numbers of that name."""
        return TargetConfig(kind="values", values=self.names)

    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """1 - CCC over the batch."""
        from trainers.models.losses import ccc_loss

        return ccc_loss(scores_NW, targets[self.kind], row_weights_N)

    def class_weights(self, targets: Targets) -> None:
        """There are none."""

    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """The scores themselves."""
        return scores_NW

    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The numbers in the json."""
        return read_targets(index, self.by_default, self.names), f"stated {', '.join(self.names)}"

    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> ClassScores | ValueScores:
        """Concordance of each value."""
        return score_values(targets.array, answers, speakers)

    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """`truth_NAME` and `score_NAME` of each value."""
        truth = {
            f"truth_{name}": pa.array(
                targets.array[:, place], from_pandas=True
            )  # null where it is not known
            for place, name in enumerate(self.names)
        }
        return truth | _score_columns(self.names, answers)

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """O-CCC and A-CCC of each value."""
        scores = metrics["scores"]
        return {
            f"{shown} {value}": float(scores[name][place])
            for place, value in enumerate(self.names)
            for name, shown in self.FIGURES.items()
        }


TARGETS: Mapping[TargetKind, type[Target]] = {"classes": ClassTarget, "values": ValueTarget}


def target_of(metrics: Metrics) -> Target:
    """The target that finished metrics are of."""
    kind: TargetKind = "values" if "overall" in metrics["scores"] else "classes"
    return TARGETS[kind](metrics["names"])


def _score_columns(names: Sequence[str], answers: NDArray[np.float32]) -> dict[str, pa.Array]:
    return {f"score_{name}": pa.array(answers[:, place]) for place, name in enumerate(names)}
