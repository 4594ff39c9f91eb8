"""Accuracy and macro-F1 against ground truth, with intervals that respect speakers.

A speaker's utterances resemble each other, so an interval from resampling utterances would be too
narrow: here whole speakers are resampled (the cluster bootstrap), and all that is compared is
scored on the same resamples, which makes differences paired. Each speaker is one confusion matrix,
so a resample is a weighted sum of matrices and a million utterances cost no more than their
speakers. Above `MAX_GROUPS` speakers are pooled at random into that many groups: sums of
independent speakers are as independent, and the memory stays bounded.

Shapes: G groups of speakers, C = 7 emotions as truth (rows) and label (columns), R resamples.
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
    """Scores sets of labels of the same M utterances, at least one, all of them with a known truth.

    `truth` [M] holds positions in EMOTIONS, `speaker` [M] numbers, -1 for none: such an utterance
    stands for itself. `classes` are the positions macro-F1 is averaged over.
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
        chances = np.full(self._num_groups, 1 / self._num_groups)
        self._weights_RG = generator.multinomial(self._num_groups, chances, NUM_RESAMPLES).astype(
            np.float64
        )

    def confusion(self, label: NDArray[np.int64]) -> Confusion:
        """Counts [G, C, C] of the utterances that have a label; -1 is none."""
        return self.nested_confusions(label, np.zeros(len(label), dtype=np.int64), 1)[0]

    def nested_confusions(
        self, label: NDArray[np.int64], level: NDArray[np.int64], num_levels: int
    ) -> Confusion:
        """Counts [num_levels, G, C, C] where set k holds the labeled utterances with `level` [M] at
        most k.
        """
        shape = (num_levels, self._num_groups, NUM_EMOTIONS, NUM_EMOTIONS)
        rows = (label >= 0) & (level < num_levels)
        cells = np.ravel_multi_index(
            (level[rows], self._group[rows], self._truth[rows], label[rows]), shape
        )
        counts = np.bincount(cells, minlength=int(np.prod(shape))).reshape(shape)
        return counts.cumsum(axis=0).astype(np.float64)

    def scores(self, confusion: Confusion) -> dict[str, Any]:
        """`n`, `accuracy` and `macro_f1` of one [G, C, C], the two with value, low and high."""
        whole, resampled = confusion.sum(axis=0), self._resampled(confusion)
        return {
            "n": int(whole.sum()),
            "accuracy": self._estimate(accuracy(whole), accuracy(resampled)),
            "macro_f1": self._estimate(
                macro_f1(whole, self._classes), macro_f1(resampled, self._classes)
            ),
        }

    def difference(self, first: Confusion, second: Confusion) -> dict[str, float]:
        """How much more accurate the first is, with value, low and high; paired by resample."""
        value = accuracy(first.sum(axis=0)) - accuracy(second.sum(axis=0))
        return self._estimate(
            value, accuracy(self._resampled(first)) - accuracy(self._resampled(second))
        )

    def _resampled(self, confusion_GCC: Confusion) -> Confusion:
        return np.tensordot(self._weights_RG, confusion_GCC, axes=1)

    def _estimate(
        self, value: NDArray[np.float64], resampled: NDArray[np.float64]
    ) -> dict[str, float]:
        """`value` with its percentile interval, which is NaN where a single speaker says nothing
        about others.

        Resamples that miss every labeled utterance say nothing and are left out.
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
    """Share of right labels of each [..., C, C] matrix; NaN where it is empty."""
    total = confusion.sum(axis=(-2, -1))
    right = np.trace(confusion, axis1=-2, axis2=-1)
    return np.divide(right, total, out=np.full(total.shape, np.nan), where=total > 0)


def macro_f1(confusion: Confusion, classes: Sequence[int]) -> NDArray[np.float64]:
    """Mean F1 over `classes` of each [..., C, C] matrix; NaN where it is empty.

    A class that is neither among its truths nor among its labels counts 0, as in scikit-learn:
    averaging over other classes for every set would compare averages of different things.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)[..., classes]
    involved = (confusion.sum(axis=-1) + confusion.sum(axis=-2))[..., classes]
    f1 = np.divide(2 * right, involved, out=np.zeros(involved.shape), where=involved > 0)
    return np.where(confusion.sum(axis=(-2, -1)) > 0, f1.mean(axis=-1), np.nan)


def _grouped(
    speaker: NDArray[np.int64], generator: np.random.Generator
) -> tuple[NDArray[np.int64], int]:
    """The group of each utterance, and how many groups there are."""
    alone = speaker < 0
    clusters = np.where(alone, speaker.max(initial=-1) + np.cumsum(alone), speaker)
    _, group = np.unique(clusters, return_inverse=True)
    num_clusters = int(group.max()) + 1
    if num_clusters <= MAX_GROUPS:
        return group, num_clusters
    pooled = generator.permutation(num_clusters) % MAX_GROUPS
    return pooled[group], MAX_GROUPS
