"""Accuracy and macro-F1 against the true emotions, with confidence intervals over speakers.

The utterances of one speaker resemble each other, so an interval from resampling utterances would
be too narrow. Here whole speakers are resampled (the cluster bootstrap). All label sets are scored
on the same resamples, so their differences are paired.

Each speaker is one confusion matrix, and a resample is a weighted sum of these matrices: a million
utterances cost no more than their speakers do. More than `MAX_GROUPS` speakers are pooled at random
into that many groups, which bounds the memory. Groups of independent speakers are independent too.

Shapes: M utterances, G groups of speakers, C = 7 emotions as truth (rows) and label (columns),
R resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.emotions import NUM_EMOTIONS

NUM_RESAMPLES = 1000
CONFIDENCE = 0.95
MAX_GROUPS = 4000

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

        generator = np.random.default_rng(seed)
        self._group, self._num_groups = _grouped(speaker, generator)

        # G draws with replacement from G groups are all that a resample is, and a multinomial draw
        # says how often each group was drawn.
        chances = np.full(self._num_groups, 1 / self._num_groups)
        self._weights_RG = generator.multinomial(self._num_groups, chances, NUM_RESAMPLES).astype(
            np.float64
        )

    def confusion(self, label: NDArray[np.int64]) -> Confusion:
        """Counts [G, C, C] of the utterances that have a label; a label of -1 is not counted."""
        return self.nested_confusions(label, np.zeros(len(label), dtype=np.int64), 1)[0]

    def nested_confusions(
        self, label: NDArray[np.int64], level: NDArray[np.int64], num_levels: int
    ) -> Confusion:
        """Counts [num_levels, G, C, C] of nested sets of utterances.

        Set k holds the utterances that have a label and whose `level` [M] is at most k.
        """
        shape = (num_levels, self._num_groups, NUM_EMOTIONS, NUM_EMOTIONS)
        rows = (label >= 0) & (level < num_levels)

        # The four numbers of an utterance become the number of its cell in the flattened counts,
        # so that one bincount fills all matrices. The sum along the levels nests the sets.
        cells = np.ravel_multi_index(
            (level[rows], self._group[rows], self._truth[rows], label[rows]), shape
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
        return np.tensordot(self._weights_RG, confusion_GCC, axes=1)

    def _estimate(
        self, value: NDArray[np.float64], resampled: NDArray[np.float64]
    ) -> dict[str, float]:
        """`value` with the ends `low` and `high` of its percentile interval.

        The ends are NaN when there is only one speaker, because one speaker shows nothing of how
        others differ. Resamples without any labeled utterance have no score and are left out.
        """
        usable = resampled[~np.isnan(resampled)]
        tail = (1 - CONFIDENCE) / 2
        known = self._num_groups > 1 and len(usable) > 0
        low, high = np.quantile(usable, [tail, 1 - tail]) if known else (np.nan, np.nan)

        return {
            "value": round(float(value), 6),
            "low": round(float(low), 6),
            "high": round(float(high), 6),
        }


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


def _grouped(
    speaker: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """The group of each utterance, and the number of groups."""
    # An utterance without a speaker becomes a cluster of its own. The running count of such
    # utterances starts at 1, so the new numbers begin right behind the largest speaker number.
    alone = speaker < 0
    clusters = np.where(alone, speaker.max(initial=-1) + np.cumsum(alone), speaker)

    # Speakers without a known truth have no utterances here: the numbers are made gapless.
    _, group = np.unique(clusters, return_inverse=True)
    num_clusters = int(group.max()) + 1
    if num_clusters <= MAX_GROUPS:
        return group, num_clusters

    # A permutation modulo the number of groups deals the clusters out evenly.
    pooled = generator.permutation(num_clusters) % MAX_GROUPS
    return pooled[group], MAX_GROUPS
