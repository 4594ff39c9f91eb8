"""Which emotions a teacher knows, and how teachers are compared that do not know the same ones.

A checkpoint with four classes gives the other three emotions exactly 0. KL(first || second) is then
infinite wherever the first teacher believes in one of them a little, and the published rule rejects
every utterance as a disagreement. So a teacher that is compared with gives each emotion that it
lacks the probability `FLOOR` in place of 0: it cannot exclude what it has never heard of. Where a
teacher gives most of its probability to emotions that another one lacks, the two cannot agree, and
the utterance is put apart with a reason of its own. Teachers that know all seven emotions are
compared as published, to the bit; the Jensen-Shannon divergence is finite and stays as it is.

Restricting both teachers to the emotions that they share, and renormalizing, lost in the
measurement (`tests/benchmarks/labeling/missing_emotions.py`): it forgets how much of the first
teacher's belief lies outside.

Shapes: N utterances, 7 emotions.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS, NUM_EMOTIONS

FLOOR = 1e-3
MAX_OUTSIDE_MASS = 0.5
# A table that was made before labelers said what they know shows it by its zeros. A few confident
# rows may have a zero by chance; no softmax gives an emotion exactly 0 in this many.
MIN_ROWS_THAT_SHOW = 100

Known = NDArray[np.bool_]


def known_emotions(declared: str | None, probs: NDArray[np.float64]) -> Known:
    """Which emotions a teacher knows, [7], by what its table says or else by its `probs` [N, 7].

    `declared` is what the labeler wrote into the footer: names of emotions, joined by commas.
    """
    if declared is not None:
        return declared_emotions(declared)

    present = probs[~np.isnan(probs).any(axis=1)]
    if len(present) < MIN_ROWS_THAT_SHOW:
        return np.ones(NUM_EMOTIONS, dtype=bool)
    return np.asarray((present > 0).any(axis=0))


def declared_emotions(declared: str) -> Known:
    """The emotions [7] that a footer names, joined by commas."""
    return np.isin(EMOTIONS, declared.split(","))


def raised(probs: NDArray[np.float64], known: Known, floor: float = FLOOR) -> NDArray[np.float64]:
    """`probs` [N, 7] with `floor` for each emotion that is not known, and rows that sum to 1.

    Nothing changes where all seven are known. A row with NaN stays NaN.
    """
    if known.all():
        return probs

    # Where an emotion is not known, NaN must not be replaced either: 0 * NaN keeps it.
    lifted = np.where(known, probs, floor + 0.0 * probs)
    return np.asarray(lifted / lifted.sum(axis=1, keepdims=True))


def put_apart(
    teachers: Mapping[str, NDArray[np.float64]], known: Mapping[str, Known]
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """The utterances [N] whose emotion a teacher may lack, and the reason, for each pair.

    `teachers` maps each teacher to its distributions [N, 7], and `known` to the emotions [7] that
    it knows.
    """
    for name, other in permutations(teachers, 2):
        lacking = known[name] & ~known[other]
        outside = teachers[name][:, lacking].sum(axis=1) > MAX_OUTSIDE_MASS

        if outside.any():
            yield (
                outside,
                f"outside_known_emotions: teacher {name!r} gives most of its probability to "
                f"emotions that teacher {other!r} lacks ({', '.join(_names(lacking))})",
            )


def missing_emotions(known: Mapping[str, Known]) -> dict[str, list[str]]:
    """The emotions that each teacher lacks; a teacher that knows all seven is left out."""
    return {name: _names(~which) for name, which in known.items() if not which.all()}


def _names(which: Known) -> list[str]:
    return [name for name, chosen in zip(EMOTIONS, which, strict=True) if chosen]
