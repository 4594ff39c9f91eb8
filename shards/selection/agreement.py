"""How far apart teachers' distributions are: the distances of setpeer-emoceleb, section III-B5.

Shapes: N utterances, C = 7 emotions. Logarithms are natural, and numbers are float64. No epsilon is
added: where the second teacher gives a class exactly 0 and the first teacher does not, the
published divergence is infinite, and the utterance is never kept. Only for emotions
that the second teacher does not know at all, its 0 is raised (`shards.selection.coverage`).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import rel_entr

from shards.selection.coverage import Known, raised

Distance = Literal["kl", "js"]


def kl_divergence(
    first_NC: NDArray[np.float64], second_NC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(first || second) of each row, [N] in nats.

    A class to which the first gives 0 adds 0. A row with NaN gives NaN.
    """
    return np.asarray(rel_entr(first_NC, second_NC).sum(axis=1))


def js_divergence(
    first_NC: NDArray[np.float64], second_NC: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The Jensen-Shannon divergence of each row, [N] in nats, at most ln 2.

    This is the divergence itself, not its square root.
    """
    middle_NC = (first_NC + second_NC) / 2

    return (kl_divergence(first_NC, middle_NC) + kl_divergence(second_NC, middle_NC)) / 2


def pairwise_distance(
    teachers: Sequence[NDArray[np.float64]],
    distance: Distance,
    known: Sequence[Known] | None = None,
) -> NDArray[np.float64]:
    """The distance between one, two or three teachers for each utterance, [N].

    Two teachers A and B are measured in the order given: the published rule is KL(A || B). For
    three teachers (Table XI, A + V + T) the paper gives no formula. Here their distance is the
    largest over the pairs, so that an utterance is kept only where every pair agrees. The mean over
    the pairs was left out: it keeps utterances on which one teacher contradicts two teachers that
    are very close. One teacher has no other to be compared with, and its distance is NaN.

    `known` has the emotions [7] that each teacher knows; without it, all know all seven. Where the
    second teacher of a pair lacks emotions, its zeros are raised before KL is taken.
    """
    measure = kl_divergence if distance == "kl" else js_divergence
    if len(teachers) == 1:
        return np.full(len(teachers[0]), np.nan)

    compared_with = teachers
    if known is not None and distance == "kl":
        compared_with = [raised(*pair) for pair in zip(teachers, known, strict=True)]

    # `combinations` keeps the order of the teachers within each pair, which KL depends on.
    pairs = combinations(range(len(teachers)), 2)
    return np.asarray(np.max([measure(teachers[i], compared_with[j]) for i, j in pairs], axis=0))


def matched_threshold(distances: NDArray[np.float64], num_kept: int) -> float:
    """The smallest threshold that keeps `num_kept` of `distances`; NaN is never kept.

    It keeps more only where further distances are equal to the threshold. The paper compares JS
    with KL in this way: the JS threshold is moved until both keep equally many utterances.
    """
    known = distances[~np.isnan(distances)]
    if num_kept == 0 or len(known) == 0:
        return 0.0

    # A distance equal to the threshold is kept, so the threshold is the last kept distance itself:
    # number `num_kept` in rising order, which is position num_kept - 1.
    return float(np.partition(known, num_kept - 1)[num_kept - 1])
