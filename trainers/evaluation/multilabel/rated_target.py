"""Ratings as a target: several classes can be true of an utterance, as far as people voted so.

The shares of the votes are learned. For the figures, a class is true of an utterance when it has
more than 1/C of the votes, and it is answered when its probability is above 1/C (two-stage-aver,
sections III and V-B).

Shapes: N utterances, C classes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.loading.index import CorpusIndex
from shards.loading.targets import TargetConfig, Targets, labels_outside, read_targets
from trainers.evaluation.intervals import rating_intervals
from trainers.evaluation.metrics import RatedScores, Scores, score_ratings
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, above_threshold, labels_of_shares
from trainers.evaluation.target import Metrics, ProbabilityTarget, score_columns


class RatedTarget(ProbabilityTarget):
    """Several classes at once: learned as a distribution, scored class by class."""

    kind = "ratings"
    best_figure = "macro_f1"
    wanted_in_json = "votes in its `ratings` for one of"

    FIGURES: ClassVar[Mapping[str, str]] = {
        "macro_f1": "F1",
        "weighted_f1": "WF1",
        "brier_score": "Brier",
        "calibration_error": "ECE",
        "speaker_f1": "A-F1",
        "speaker_f1_std": "A-F1 std",
    }

    @property
    def by_default(self) -> TargetConfig:
        """The ratings of people who heard and saw the utterance."""
        return TargetConfig(kind="ratings")

    def truth(self, index: CorpusIndex) -> tuple[Targets, str]:
        """The shares of the votes of the stimulus that the model learned."""
        return (
            read_targets(index, self.learned, self.names),
            f"{self.learned.stimulus} ratings",
        )

    def unknown_truths(self, index: CorpusIndex) -> dict[str, int]:
        """How many utterances have only votes for other classes, by the most frequent of them."""
        return labels_outside(index, self.learned, self.names)

    def one_vs_rest(self, targets: Targets, answers: NDArray[np.float32]) -> OneVsRest:
        """Each class against the rest, by the threshold of 1/C on both sides."""
        return OneVsRest(
            names=self.names,
            rule=f"probability above 1/{len(self.names)}",
            probs_NC=answers,
            chosen_NC=above_threshold(answers),
            truth_NC=labels_of_shares(targets.array),
        )

    def score(
        self, targets: Targets, answers: NDArray[np.float32], speakers: NDArray[np.object_]
    ) -> Scores:
        """F1, Brier score and calibration error of all classes."""
        return score_ratings(
            self.one_vs_rest(targets, answers), speakers, f1_over=self.learned.f1_over
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
        """[low, high] of each figure but the deviation over speakers."""
        assert isinstance(scores, RatedScores)  # noqa: S101 (this target made them)
        return rating_intervals(
            scores,
            self.one_vs_rest(targets, answers),
            speakers,
            f1_over=self.learned.f1_over,
            seed=seed,
        )

    def shown_intervals(self, metrics: Metrics) -> dict[str, Sequence[float | None]]:
        """The intervals of all figures but the deviation over speakers."""
        found = metrics["intervals"]
        return {shown: found[name] for name, shown in self.FIGURES.items() if name in found}

    def columns(self, targets: Targets, answers: NDArray[np.float32]) -> dict[str, pa.Array]:
        """The lists `truth` and `predicted` of class names, and `truth_NAME` and `score_NAME`.

        `truth_NAME` is the share of the votes.
        """
        judged = self.one_vs_rest(targets, answers)
        shares = {
            # With `from_pandas`, NaN (not rated) becomes null.
            f"truth_{name}": pa.array(targets.array[:, place], from_pandas=True)
            for place, name in enumerate(self.names)
        }
        return {
            "truth": pa.array(
                self._lists(judged.truth_NC), pa.list_(pa.string()), mask=~targets.known
            ),
            "predicted": pa.array(self._lists(judged.chosen_NC), pa.list_(pa.string())),
            **shares,
            **score_columns(self.names, answers),
        }

    def figures(self, metrics: Metrics) -> dict[str, float]:
        """F1, WF1, Brier score, ECE, and A-F1 with its deviation over speakers."""
        scores = metrics["scores"]
        return {shown: float(scores[name]) for name, shown in self.FIGURES.items()}

    def _lists(self, is_true_NC: NDArray[np.bool_]) -> list[list[str]]:
        return [
            [name for name, is_true in zip(self.names, row, strict=True) if is_true]
            for row in is_true_NC.tolist()
        ]
