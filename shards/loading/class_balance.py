"""An epoch in which every class has the same share of the utterances.

An epoch stays as long as the corpus, so that options counted in epochs mean as much work as before:
of N utterances in C classes, it holds N / C of each class (classes with one more are drawn). The
utterances of a rare class come several times, and of a frequent class a random part comes, another
one in each epoch. Nobody comes a second time before all others of the class have come once, so
independent draws, which would leave some of a rare class out, were rejected.

Shapes: N utterances.
"""

import numpy as np
from numpy.typing import NDArray

from shards.grouping import group_rows

# Utterances whose lengths differ by less than this factor count as equally long. In a corpus with
# 2 % of a rare class, its share of a batch spread by .39 with exact lengths, by .19 with this
# factor, and would by .13 in batches that are drawn freely. Padding is 8 % in place of 2 %.
LENGTH_STEP = 1.2


def balanced_rows(classes_N: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the rows of an epoch [N], in random order.

    `classes_N` is the class of each utterance.
    """
    groups = list(group_rows(classes_N).values())
    least, num_larger = divmod(len(classes_N), len(groups))
    larger = set(rng.permutation(len(groups))[:num_larger].tolist())

    drawn = []
    for place, rows in enumerate(groups):
        whole, rest = divmod(least + (place in larger), len(rows))
        drawn += [np.tile(rows, whole), rng.choice(rows, rest, replace=False)]

    return rng.permutation(np.concatenate(drawn))


def stepped_lengths(seconds_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round lengths up to the next of steps by LENGTH_STEP.

    Sorted by their exact lengths, the copies of an utterance would lie side by side and come into
    one batch. By these, they mix with all utterances of about their length.
    """
    steps = np.ceil(np.log(seconds_N) / np.log(LENGTH_STEP))
    # Why the maximum: a length on a step may be rounded to a little under itself.
    return np.maximum(LENGTH_STEP**steps, seconds_N)
