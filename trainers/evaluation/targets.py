"""The kinds of target: each has its loss, its answers, its truth, its scores and its table columns.

There are three kinds: one of several classes (of any vocabulary), values, and ratings, by which
several classes can be true at once. Another kind of target is another subclass of `Target`.

Shapes: N utterances, C classes, V values, W either C or V.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import (
    TargetConfig,
    TargetKind,
    Targets,
    labels_outside,
    read_targets,
)
from trainers.evaluation.intervals import class_intervals, value_intervals
from trainers.evaluation.metrics import (
    ClassScores,
    Scores,
    ValueScores,
    score_classes,
    score_values,
)
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.target import Metrics, ProbabilityTarget, Target, score_columns

if TYPE_CHECKING:
    from torch import Tensor


class ClassTarget(ProbabilityTarget):
    """One of several classes: learned by cross-entropy, scored by accuracy and macro-F1."""

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
        "unweighted_accuracy": "UA",
        "weighted_f1": "WF1",
        "f1_bias": "F1 bias",
    }

    @property
    def by_default(self) -> TargetConfig:
        """The field `label`."""
        return TargetConfig()

    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The true emotion if any utterance of `index` has one, otherwise the label.

        Labels that counted as another class in training count as that class here too.
        """
        config = self.truth_config(index)
        weak = index.table["label_probs"].null_count < len(index)
        label = "weak label" if weak else "label"

        return (
            read_targets(index, config, self.names),
            "true emotion" if config.kind == "emotion" else label,
        )

    def truth_config(self, index: CorpusIndex) -> TargetConfig:
        """The field of the json that holds the truth of `index`."""
        has_truth = index.table["emotion"].null_count < len(index)

        return TargetConfig(
            kind="emotion" if has_truth else "label", merge=dict(self.learned.merge)
        )

    def unknown_truths(self, index: CorpusIndex) -> dict[str, int]:
        """How many utterances state each class that the model does not know."""
        return labels_outside(index, self.truth_config(index), self.names)

    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> Scores:
        """Accuracy and F1 of the likeliest class of each answer."""
        return score_classes(
            targets.labels,
            answers.argmax(axis=1),
            speakers,
            self.names,
            f1_over=self.learned.f1_over,
        )

    def intervals(
        self,
        scores: Scores,
        targets: Targets,
        answers: NDArray[np.float32],
        speakers: NDArray[np.object_],
        *,
        seed: int,
    ) -> dict[str, Any]:
        """[low, high] of accuracy and macro-F1, overall and over speakers."""
        assert isinstance(scores, ClassScores)  # noqa: S101 (this target made them)
        predicted = answers.argmax(axis=1)
        return class_intervals(
            scores, targets.labels, predicted, speakers, f1_over=self.learned.f1_over, seed=seed
        )

    def shown_intervals(self, metrics: Metrics) -> dict[str, Sequence[float | None]]:
        """The intervals of all figures but standard deviations."""
        found = metrics.get("intervals", {})
        return {shown: found[name] for name, shown in self.FIGURES.items() if name in found}

    def one_vs_rest(self, targets: Targets, answers: NDArray[np.float32]) -> OneVsRest:
        """Each class against the rest: the true one, and the likeliest one of the answer."""
        classes = np.arange(len(self.names))
        return OneVsRest(
            names=self.names,
            rule="the likeliest class",
            probs_NC=answers,
            chosen_NC=answers.argmax(axis=1)[:, None] == classes,
            truth_NC=targets.labels[:, None] == classes,
        )

    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """The columns `truth` and `predicted`, and one column `score_NAME` for each class."""
        names = np.asarray(self.names, dtype=object)
        # Where the truth is unknown its label is -1. That would take the last name, so the mask
        # makes it null.
        return {
            "truth": pa.array(names[targets.labels], pa.string(), mask=~targets.known),
            "predicted": pa.array(names[answers.argmax(axis=1)]),
            **score_columns(self.names, answers),
        }

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """ACC, F1, UA, WF1 and F1 bias, and A-ACC and A-F1 with their deviations over speakers.

        Metrics of before 2026-11-28 lack some of them.
        """
        scores = metrics["scores"]
        return {
            shown: float(scores[name]) for name, shown in self.FIGURES.items() if name in scores
        }


class ValueTarget(Target):
    """One or more values: learned by the loss 1 - CCC, scored by CCC."""

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
        """The numbers in the json that have the names of the values."""
        return TargetConfig(kind="values", values=self.names)

    def loss(
        self,
        scores_NW: "Tensor",
        targets: Mapping[str, "Tensor"],
        *,
        class_weights: "Tensor | None",
        row_weights_N: "Tensor | None",
    ) -> "Tensor":
        """1 - CCC over the utterances given, which are those of a whole step in training."""
        from trainers.models.losses import ccc_loss

        return ccc_loss(scores_NW, targets[self.kind], row_weights_N)

    def class_weights(self, targets: Targets) -> None:
        """None, because values have no classes."""

    def answers(self, scores_NW: "Tensor") -> "Tensor":
        """The scores themselves, which are the values [N, V]."""
        return scores_NW

    def unknown_truths(self, index: CorpusIndex) -> dict[str, int]:
        """Empty, because values have no classes."""
        return {}

    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The numbers in the json, as the corpus states them."""
        return read_targets(index, self.by_default, self.names), f"stated {', '.join(self.names)}"

    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> Scores:
        """The concordance (CCC) of each value."""
        return score_values(targets.array, answers, speakers)

    def intervals(
        self,
        scores: Scores,
        targets: Targets,
        answers: NDArray[np.float32],
        speakers: NDArray[np.object_],
        *,
        seed: int,
    ) -> dict[str, Any]:
        """For O-CCC and A-CCC, [low, high] of each value."""
        assert isinstance(scores, ValueScores)  # noqa: S101 (this target made them)
        return value_intervals(scores, targets.array, answers, speakers, seed=seed)

    def shown_intervals(self, metrics: Metrics) -> dict[str, Sequence[float | None]]:
        """The intervals of O-CCC and A-CCC of each value."""
        found = metrics.get("intervals", {})
        return {
            f"{shown} {value}": found[name][place]
            for place, value in enumerate(self.names)
            for name, shown in self.FIGURES.items()
            if name in found
        }

    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """The columns `truth_NAME` and `score_NAME` for each value."""
        # With `from_pandas`, NaN (an unknown truth) becomes null.
        truth = {
            f"truth_{name}": pa.array(targets.array[:, place], from_pandas=True)
            for place, name in enumerate(self.names)
        }
        return truth | score_columns(self.names, answers)

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """O-CCC and A-CCC of each value, A-CCC with its standard deviation over speakers."""
        scores = metrics["scores"]
        return {
            f"{shown} {value}": float(scores[name][place])
            for place, value in enumerate(self.names)
            for name, shown in self.FIGURES.items()
        }


TARGETS: Mapping[TargetKind, type[Target]] = {
    "classes": ClassTarget,
    "values": ValueTarget,
    "ratings": RatedTarget,
}


def target_of(metrics: Metrics) -> Target:
    """The target whose figures the finished `metrics` hold."""
    scores = metrics["scores"]
    kind: TargetKind = "values" if "overall" in scores else "classes"
    if "brier_score" in scores:
        kind = "ratings"
    return TARGETS[kind](metrics["names"])
