"""How often chance alone would set groups of speakers as far apart: a permutation test.

A difference is never negative, and that of any two samples is above 0: its interval cannot say that
there is none. So the speakers of the groups are dealt out anew, whole speakers at a time and as
many to each group as it has. If groups do not matter, the difference that was found is one of those
that this gives.

Shapes: N utterances, K groups, C classes, P permutations.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.evaluation.class_figures import F1Over
from trainers.evaluation.fairness.differences import differences, over_classes
from trainers.evaluation.fairness.grouping import Grouping
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest, count_sums

NUM_PERMUTATIONS = 1000
_TOLERANCE = 1e-9


def chances(
    answers: OneVsRest,
    speakers: NDArray[np.object_],
    grouping: Grouping,
    usable_KC: NDArray[np.bool_],
    *,
    f1_over: F1Over,
    seed: int,
) -> dict[str, float | None]:
    """The p of each difference by its name; None where it cannot be tested.

    That is so when a speaker is in several groups, since then groups are not made of speakers, and
    when fewer than two groups can be judged. With P permutations the smallest p is 1/(P + 1).
    """
    names, number = np.unique(speakers.astype(str), return_inverse=True)
    group_of = np.full(len(names), -1, dtype=np.int64)
    group_of[number] = grouping.place
    is_of_speakers = bool((group_of[number] == grouping.place).all())

    sums_SC = count_sums(answers, (number.astype(np.int64), len(names)))
    num_groups = len(grouping.names)
    found = _scalars(_by_group(sums_SC, group_of, num_groups), usable_KC, f1_over)
    if not is_of_speakers:
        return dict.fromkeys(found, None)

    # Speakers of groups that are not judged stay where they are.
    movable = np.flatnonzero(np.asarray(usable_KC.any(axis=1))[group_of])
    generator, dealt = np.random.default_rng(seed), group_of.copy()
    totals = []
    for _ in range(NUM_PERMUTATIONS):
        dealt[movable] = group_of[generator.permutation(movable)]
        totals.append(_by_group(sums_SC, dealt, num_groups))

    by_chance = _scalars(np.stack(totals), usable_KC, f1_over)
    return {name: _p(value, by_chance[name]) for name, value in found.items()}


def _by_group(
    sums_SC: NDArray[np.float64], group_of: NDArray[np.int64], num_groups: int
) -> NDArray[np.float64]:
    """The sums [K, C, 5] of the speakers of each group."""
    membership_KS = (np.arange(num_groups)[:, None] == group_of).astype(np.float64)
    return np.tensordot(membership_KS, sums_SC, axes=1)


def _scalars(
    sums_KC: NDArray[np.float64], usable_KC: NDArray[np.bool_], f1_over: F1Over
) -> Mapping[str, Any]:
    found = differences(sums_KC, usable_KC, f1_over=f1_over)
    return {"macro_f1_bias": found["macro_f1_bias"], **over_classes(found)}


def _p(found: NDArray[np.float64], by_chance_P: NDArray[np.float64]) -> float | None:
    known_P = by_chance_P[~np.isnan(by_chance_P)]
    if np.isnan(found) or not len(known_P):
        return None
    as_large = int((known_P >= found - _TOLERANCE).sum())
    return round((as_large + 1) / (len(known_P) + 1), 6)
