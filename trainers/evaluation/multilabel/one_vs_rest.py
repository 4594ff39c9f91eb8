"""Answers as one yes or no for each class of each utterance, with the truth and the probability.

Several classes can be true of an utterance at once. So each class is judged against the rest, as
if it were the only one. Everything that the figures need are sums of a few numbers over utterances.
Sums add up over speakers, groups of people and folds, so one set of resamples serves all figures.

Shapes: N utterances, C classes, B bins; `...` leading axes of sums, such as speakers or groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The last axis of `count_sums`: how many utterances were rightly taken for the class, how many were
# taken for it, of how many it is true, how many there are, and the sum of the squared errors.
HITS, CHOSEN, TRUE, NUMBER, SQUARED = range(5)
# The last axis of `count_bins`.
IN_BIN, PROBABILITY, TRUE_IN_BIN = range(3)
# Bins of equal width, as many as Guo et al. (2017) and torchmetrics take.
NUM_BINS = 15

Axis = tuple[NDArray[np.int64], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class OneVsRest:
    """What was answered and what is true of N utterances, for each of the classes `names`.

    `probs_NC` are the answers, `chosen_NC` what they were taken for by `rule`, and `truth_NC` what
    is true.
    """

    names: Sequence[str]
    rule: str
    probs_NC: NDArray[np.float32]
    chosen_NC: NDArray[np.bool_]
    truth_NC: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.probs_NC)

    def take(self, rows: NDArray[np.int64]) -> "OneVsRest":
        """The same of the utterances `rows` alone."""
        return OneVsRest(
            names=self.names,
            rule=self.rule,
            probs_NC=self.probs_NC[rows],
            chosen_NC=self.chosen_NC[rows],
            truth_NC=self.truth_NC[rows],
        )


def above_threshold(probs_NC: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which classes are chosen: those with a probability above 1/C (two-stage-aver, section V-B).

    Exactly 1/C is not above it. The comparison is made in the precision of the probabilities:
    1/6 in float32 is larger than 1/6, and six equal probabilities would all be chosen.
    """
    return np.asarray(probs_NC > probs_NC.dtype.type(1 / probs_NC.shape[1]))


def labels_of_shares(shares_NC: NDArray[np.float32]) -> NDArray[np.bool_]:
    """The labels of each utterance, from its distribution of votes: what has more than 1/C of them.

    It gives what whole numbers give (`multi_hot`), up to 100,000 votes: v of n votes are more than
    n/C exactly when C v is at least n + 1. Then C times the share is above 1 by at least 1/n, and
    float32 rounds a share by less than one part in ten million.
    """
    return np.asarray(shares_NC.shape[1] * shares_NC.astype(np.float64) > 1 + 5e-6)


def count_sums(answers: OneVsRest, *axes: Axis) -> NDArray[np.float64]:
    """The sums [..., C, 5] over utterances that HITS to SQUARED name.

    Each of `axes` is a leading axis: the place of each utterance [N] on it, and its length.
    """
    truth, chosen = answers.truth_NC, answers.chosen_NC
    squared = np.square(answers.probs_NC.astype(np.float64) - truth)
    columns = (truth & chosen, chosen, truth, np.ones_like(truth), squared)

    return _summed(columns, np.arange(len(answers.names)), len(answers.names), axes)


def count_bins(answers: OneVsRest, *axes: Axis) -> NDArray[np.float64]:
    """The sums [..., C, B, 3] over the utterances of each bin that IN_BIN to TRUE_IN_BIN name.

    A bin holds the utterances whose probability of the class is within 1/B; its lower end belongs
    to it, and to the last bin its upper end too.
    """
    probs, num_classes = answers.probs_NC.astype(np.float64), len(answers.names)
    bins = np.clip((probs * NUM_BINS).astype(np.int64), 0, NUM_BINS - 1)
    columns = (np.ones_like(probs), probs, answers.truth_NC)

    cells = np.arange(num_classes) * NUM_BINS + bins
    sums = _summed(columns, cells, num_classes * NUM_BINS, axes)
    return sums.reshape(*sums.shape[:-2], num_classes, NUM_BINS, 3)


def _summed(
    columns: Sequence[NDArray[np.generic]],
    cells: NDArray[np.int64],
    num_cells: int,
    axes: Sequence[Axis],
) -> NDArray[np.float64]:
    """Sum each of `columns` [N, C] within its cell, for each place on `axes`.

    `cells` are [C], or [N, C].
    """
    lengths = tuple(length for _, length in axes)
    first = np.zeros((len(columns[0]), 1), dtype=np.int64)
    if axes:
        first = np.ravel_multi_index([places for places, _ in axes], lengths)[:, None]

    where = (first * num_cells + cells).ravel()
    num_places = int(np.prod(lengths)) * num_cells
    sums = [
        np.bincount(where, column.astype(np.float64).ravel(), minlength=num_places)
        for column in columns
    ]
    stacked = np.stack(sums, axis=-1).astype(np.float64)
    return stacked.reshape(*lengths, num_cells, len(columns))
