"""How good labels are, measured on the utterances whose true emotion is known.

Four ways of labeling are scored: each teacher alone, the mean of all teachers, the kept set, and
what each threshold would keep.

Like is compared with like: each way of labeling is scored on the labels that it would give. An
utterance counts for it when its label there is one of the wanted classes; the kept set has such
labels only. A true emotion outside the wanted classes makes every label wrong. Accuracy is then the
share of a label set that is right, and `n` is the size of the set.

Two other measures were left out. Scoring teachers on all seven emotions and the kept set on four
would credit the agreement with what the restriction to four classes does. Leaving out utterances
whose true emotion is outside the wanted classes would hide errors that nobody can leave out where
the truth is not known.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS
from shards.selection.rule import Candidates, SelectConfig, Selection, class_numbers, labels_of
from shards.selection.scores import Confusion, Scorer, accuracy

NUM_QUANTILES = 20
ROUND_THRESHOLDS = {"kl": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0), "js": (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)}
SIGNIFICANT_DIGITS = 4


class Evaluation:
    """The label quality of one selection.

    Label quality is measured only if the true emotion of some utterance is one of the wanted
    classes.
    """

    def __init__(self, candidates: Candidates, selection: Selection, config: SelectConfig) -> None:
        self._candidates, self._selection, self._config = candidates, selection, config
        self._rows = np.flatnonzero(candidates.truth >= 0)
        truth = candidates.truth[self._rows]

        # Macro-F1 is averaged over the classes that occur: a corpus without surprise must not be
        # marked down for it.
        self._classes = [number for number in class_numbers(config) if (truth == number).any()]
        speaker = candidates.speaker[self._rows]
        self._scorer = Scorer(truth, speaker, self._classes, config.seed) if self._classes else None

    def quality(self) -> dict[str, Any] | None:
        """The entry `quality` of summary.json; None where label quality is not measured."""
        config, scorer = self._config, self._scorer
        if scorer is None:
            return None

        alone = {
            name: scorer.confusion(self._wanted(self._alone(name))) for name in config.teachers
        }
        combined = scorer.confusion(self._wanted(self._selection.label[self._rows]))
        kept = scorer.confusion(
            np.where(self._selection.kept, self._selection.label, -1)[self._rows]
        )

        # A teacher without a single label has the accuracy NaN, which `max` cannot compare: it
        # counts as worse than any other.
        best = max(
            alone, key=lambda name: np.nan_to_num(accuracy(alone[name].sum(axis=0)), nan=-1.0)
        )

        return {
            "num_with_truth": len(self._rows),
            "classes": [EMOTIONS[number] for number in self._classes],
            "teachers": {name: scorer.scores(confusion) for name, confusion in alone.items()},
            "combined": scorer.scores(combined),
            "kept": scorer.scores(kept),
            "kept_vs_best_teacher": {
                "difference": scorer.difference(kept, alone[best]),
                "best_teacher": best,
            },
            "confusion": self._confusion(kept),
        }

    def retention(self) -> list[dict[str, Any]]:
        """What each threshold would keep, and how good the kept labels would be.

        Only the agreement and the restriction to the wanted classes are applied, not the later
        steps of the rule. The list is empty for one teacher, which has no threshold.
        """
        if self._selection.threshold is None:
            return []

        # The level of an utterance is the position of the first threshold that keeps it. Threshold
        # k keeps all levels up to k, so the counts are added up along the thresholds. A NaN sorts
        # behind all thresholds, to a last level that no threshold reaches.
        thresholds = self._thresholds()
        level = np.searchsorted(thresholds, self._selection.distance)
        wanted = np.isin(self._selection.label, class_numbers(self._config))
        num_kept = np.bincount(level[wanted], minlength=len(thresholds) + 1).cumsum()
        scores = self._threshold_scores(level, len(thresholds))

        # `num_kept` is longer than `thresholds` by the last level, where zip stops.
        return [
            {
                "threshold": threshold,
                "kept": int(number),
                "share": round(int(number) / max(len(self._candidates), 1), 6),
                "accuracy": score["accuracy"] if score["n"] else None,
                "macro_f1": score["macro_f1"] if score["n"] else None,
            }
            for threshold, number, score in zip(thresholds, num_kept, scores, strict=False)
        ]

    def _threshold_scores(self, level: NDArray[np.int64], num_levels: int) -> list[dict[str, Any]]:
        if self._scorer is None:
            return [{"n": 0}] * num_levels

        label = self._wanted(self._selection.label[self._rows])
        confusions = self._scorer.nested_confusions(label, level[self._rows], num_levels)
        return [self._scorer.scores(confusion) for confusion in confusions]

    def _thresholds(self) -> list[float]:
        """The thresholds to try, in rising order, each above 0.

        They are round numbers, quantiles of the distances, and the threshold of the selection.
        """
        distance = self._selection.distance
        finite = distance[np.isfinite(distance)]

        shares = np.linspace(0, 1, NUM_QUANTILES + 1)[1:]
        levels = np.quantile(finite, shares) if len(finite) else finite
        rounded = {float(f"{level:.{SIGNIFICANT_DIGITS}g}") for level in levels}
        chosen = (
            rounded
            | set(ROUND_THRESHOLDS[self._config.distance])
            | {float(self._selection.threshold or 0)}
        )

        return sorted(level for level in chosen if level > 0)

    def _alone(self, teacher: str) -> NDArray[np.int64]:
        """A teacher's labels of the utterances whose truth is known; -1 without a prediction."""
        return labels_of(self._candidates.teachers[teacher][self._rows])

    def _wanted(self, label: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(np.isin(label, class_numbers(self._config)), label, -1)

    def _confusion(self, kept: Confusion) -> dict[str, Any]:
        """The confusion matrix of the kept set: true emotions as rows, labels as columns.

        It shows the wanted classes, and the other emotions that occur as a true emotion.
        """
        whole = kept.sum(axis=0)
        shown: Sequence[int] = [
            number
            for number in range(len(EMOTIONS))
            if whole[number].any() or number in class_numbers(self._config)
        ]
        matrix = whole[np.ix_(shown, shown)].astype(int).tolist()

        return {"labels": [EMOTIONS[number] for number in shown], "matrix": matrix}
