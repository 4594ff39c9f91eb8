"""How far two teachers' distributions are apart: the distances of EmoCeleb (setpeer-emoceleb,
section III-B5).

Shapes: N utterances, C = 7 emotions. Natural logarithms, float64, no epsilon: a class one teacher
gives exactly 0 and the other does not makes the published divergence infinite, and the utterance is
then never kept.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

Distance = Literal["kl", "js"]


def kl_divergence(
    first_NC: NDArray[np.float64], second_NC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(first || second) of each row, [N] in nats; terms with first = 0 count 0. NaN rows stay
    NaN.
    """
    return np.asarray(rel_entr(first_NC, second_NC).sum(axis=1))


def js_divergence(
    first_NC: NDArray[np.float64], second_NC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of each row, [N] in nats, at most ln 2 (the divergence, not its
    square root).
    """
    middle_NC = (first_NC + second_NC) / 2
    return (kl_divergence(first_NC, middle_NC) + kl_divergence(second_NC, middle_NC)) / 2


def pairwise_distance(
    teachers: Sequence[NDArray[np.float64]], distance: Distance
) -> NDArray[np.float64]:
    """The distance among one, two or three teachers, [N]; a pair (A, B) is taken in the order
    given.

    For two teachers A, B the published rule is KL(A || B). For three the paper (Table XI, A + V +
    T) says nothing; here it is the largest over the pairs, so that an utterance is kept only where
    every pair agrees. The mean over the pairs lost: it keeps utterances on which one teacher
    contradicts two that are very close. One teacher has nothing to be compared with: NaN.
    """
    measure = kl_divergence if distance == "kl" else js_divergence
    if len(teachers) == 1:
        return np.full(len(teachers[0]), np.nan)
    return np.asarray(
        np.max([measure(first, second) for first, second in combinations(teachers, 2)], axis=0)
    )


def matched_threshold(distances: NDArray[np.float64], num_kept: int) -> float:
    """The smallest threshold that keeps `num_kept` of `distances` (more only where the last ones
    are equal).

    This is how the paper compares JS with KL: the JS threshold is moved until both keep equally
    many.
    """
    known = distances[~np.isnan(distances)]
    if num_kept == 0 or len(known) == 0:
        return 0.0
    return float(np.partition(known, num_kept - 1)[num_kept - 1])
