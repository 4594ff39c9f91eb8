"""Low-resource subsets of training utterances, which keep the share of each class.

A subset of one seed is part of every larger one of this seed, so that figures of several sizes
differ by size alone; other seeds resample.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.grouping import group_rows
from shards.loading.index import CorpusIndex
from shards.loading.targets import Targets


def draw_subset(
    rows: NDArray[np.int64],
    labels: NDArray[np.int64],
    keys: Sequence[str],
    number: int,
    seed: int,
) -> NDArray[np.int64]:
    """`number` of `rows`, in which each class of `labels` keeps its share as nearly as can be.

    `labels` and `keys` are of all rows of the index. The rows of a smaller number are among those
    of a larger one with the same `seed`. Raises ConfigError when there are fewer rows.
    """
    if number > len(rows):
        raise ConfigError(
            f"num_utterances: got {number}, but there are {len(rows)} training utterances"
        )

    # Each class is put in an order of its own and spread evenly over [0, 1): the first share of
    # this line holds the same share of every class.
    ranks = seeded_ranks([keys[row] for row in rows.tolist()], seed)
    places = np.empty(len(rows))
    for mine in group_rows(labels[rows]).values():
        places[mine[np.argsort(ranks[mine])]] = (np.arange(len(mine)) + 0.5) / len(mine)

    return np.sort(rows[np.lexsort((ranks, places))[:number]])


def subset(
    index: CorpusIndex, targets: Targets, number: int | None, seed: int
) -> tuple[CorpusIndex, Targets]:
    """`number` utterances of `index` with their targets, or all; values count as one class.

    Raises ConfigError as `draw_subset` does.
    """
    if number is None:
        return index, targets

    labels = np.zeros(len(index), dtype=np.int64) if targets.kind == "values" else targets.labels
    speakers, keys = (index.table[name].to_pylist() for name in ("speaker", "key"))
    # A key is one of its speaker's.
    names = [f"{speaker}/{key}" for speaker, key in zip(speakers, keys, strict=True)]
    rows = draw_subset(np.arange(len(index)), labels, names, number, seed)

    return index.take(rows), targets.take(rows)


def seeded_ranks(keys: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The place of each key in an order that follows from `seed` and the keys alone."""
    digests = [hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest() for key in keys]
    ranks = np.empty(len(keys), dtype=np.int64)
    ranks[np.argsort(np.asarray(digests), kind="stable")] = np.arange(len(keys))
    return ranks
