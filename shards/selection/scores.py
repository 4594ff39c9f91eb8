"""Accuracy and macro-F1 against the true emotions, with confidence intervals over speakers.

Whole speakers are resampled (`shards.resampling`). All label sets are scored on the same resamples,
so their differences are paired. Each speaker is one confusion matrix.

Shapes: M utterances, G groups of speakers, C = 7 emotions as truth (rows) and label (columns),
R resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.emotions import NUM_EMOTIONS
from shards.resampling import SpeakerResamples

Confusion = NDArray[np.float64]


class Scorer:
    """Scores sets of labels of the same M utterances, which all have a known true emotion.

    There is at least one utterance. `truth` [M] holds positions in EMOTIONS. `speaker` [M] holds
    the numbers of the speakers, and -1 for an utterance without a speaker, which is resampled on
    its own. `classes` are the positions of the emotions that macro-F1 is averaged over.
    """

    def __init__(
        self,
        truth: NDArray[np.int64],
        speaker: NDArray[np.int64],
        classes: Sequence[int],
        seed: int,
    ) -> None:
        self._truth = truth
        self._classes = list(classes)

        self._resamples = SpeakerResamples(speaker, seed)

    def confusion(self, label: NDArray[np.int64]) -> Confusion:
        """Counts [G, C, C] of the utterances that have a label; a label of -1 is not counted."""
        return self.nested_confusions(label, np.zeros(len(label), dtype=np.int64), 1)[0]

    def nested_confusions(
        self, label: NDArray[np.int64], level: NDArray[np.int64], num_levels: int
    ) -> Confusion:
        """Counts [num_levels, G, C, C] of nested sets of utterances.

        Set k holds the utterances that have a label and whose `level` [M] is at most k.
        """
        shape = (num_levels, self._resamples.num_groups, NUM_EMOTIONS, NUM_EMOTIONS)
        rows = (label >= 0) & (level < num_levels)

        # The four numbers of an utterance become the number of its cell in the flattened counts,
        # so that one bincount fills all matrices. The sum along the levels nests the sets.
        cells = np.ravel_multi_index(
            (level[rows], self._resamples.group[rows], self._truth[rows], label[rows]), shape
        )
        counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)

        return counts.cumsum(axis=0).astype(np.float64)

    def scores(self, confusion: Confusion) -> dict[str, Any]:
        """`n`, `accuracy` and `macro_f1` of the counts [G, C, C] of one label set.

        `accuracy` and `macro_f1` have the entries `value`, `low` and `high`.
        """
        whole, resampled = confusion.sum(axis=0), self._resampled(confusion)

        return {
            "n": int(whole.sum()),
            "accuracy": self._estimate(accuracy(whole), accuracy(resampled)),
            "macro_f1": self._estimate(
                macro_f1(whole, self._classes), macro_f1(resampled, self._classes)
            ),
        }

    def difference(self, first: Confusion, second: Confusion) -> dict[str, float]:
        """How much more accurate the first label set is, as `value`, `low` and `high`.

        The interval is over differences within the same resample.
        """
        value = accuracy(first.sum(axis=0)) - accuracy(second.sum(axis=0))

        return self._estimate(
            value, accuracy(self._resampled(first)) - accuracy(self._resampled(second))
        )

    def _resampled(self, confusion_GCC: Confusion) -> Confusion:
        return self._resamples.totals(confusion_GCC)

    def _estimate(
        self, value: NDArray[np.float64], resampled: NDArray[np.float64]
    ) -> dict[str, float]:
        """`value` with the ends `low` and `high` of its interval, NaN for a single speaker."""
        low, high = self._resamples.interval(resampled)

        return {"value": round(float(value), 6), "low": round(low, 6), "high": round(high, 6)}


def accuracy(confusion: Confusion) -> NDArray[np.float64]:
    """The share of right labels in each matrix of [..., C, C]; NaN for an empty matrix."""
    total = confusion.sum(axis=(-2, -1))
    right = np.trace(confusion, axis1=-2, axis2=-1)

    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


def macro_f1(confusion: Confusion, classes: Sequence[int]) -> NDArray[np.float64]:
    """The mean F1 over `classes` of each matrix of [..., C, C]; NaN for an empty matrix.

    A class that a matrix has neither as a truth nor as a label counts 0, as in scikit-learn. If it
    were left out, the averages of two label sets would be over different classes.
    """
    # F1 is 2 TP / (2 TP + FP + FN). A class's row and column of the matrix sum to just that
    # denominator: both contain its true positives, and the rest are its errors.
    right = np.diagonal(confusion, axis1=-2, axis2=-1)[..., classes]
    involved = (confusion.sum(axis=-1) + confusion.sum(axis=-2))[..., classes]
    f1 = np.divide(2 * right, involved, out=np.zeros(involved.shape), where=involved > 0)

    return np.where(confusion.sum(axis=(-2, -1)) > 0, f1.mean(axis=-1), np.nan)
