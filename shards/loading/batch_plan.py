"""Which utterances make a batch, and in which order, decided from the index and a seed alone.

Order is a pure function of (index, view, seed, epoch) and knows nothing of ranks or torch: the
global sequence of batches is the same at any world size, ranks take turns in it, and a run resumed
on another number of workers goes on at the very next batch. Sampling with replacement was left out:
it would hide how often an utterance is seen. Balanced by classes (`class_balance.py`), utterances
of a rare class come more than once an epoch, but each as often as the others of its class.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError, option, require_positive
from shards.loading.class_balance import balanced_rows, stepped_lengths

_UTTERANCES, _SETS, _EVALUATION = range(3)


@dataclass(frozen=True, slots=True)
class PlannedBatch:
    """The rows of one batch [N], and the set (0, 1, ...) that each belongs to [N].

    Rows of a set lie together.
    """

    rows: NDArray[np.int64]
    sets: NDArray[np.int64]


class BatchPlan(Protocol):
    """Gives the batches of every epoch."""

    def epoch(self, number: int) -> list[PlannedBatch]:
        """All batches of epoch `number`, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UtteranceView:
    """Batches of utterances of similar length; every utterance once an epoch."""

    batch_seconds: float = option(
        help="seconds of sound in a batch, padding included", default=60.0
    )
    max_utterances: int = option(help="utterances in a batch at most", default=64)
    pool_batches: int = option(
        help="utterances are sorted by length within pools of this many batches: larger pools pad "
        "less, smaller ones mix better",
        default=50,
    )

    def __post_init__(self) -> None:
        require_positive(self, "batch_seconds", "max_utterances", "pool_batches")

    def typical_size(self, seconds: NDArray[np.float64]) -> int:
        """How many utterances of average length fit into a batch."""
        return max(1, min(self.max_utterances, int(self.batch_seconds / float(seconds.mean()))))


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakerSetView:
    """Batches of B speakers with K utterances each; every speaker once an epoch.

    SetPeER, section V-A.
    """

    num_sets: int = option(help="speakers in a batch (B)", default=8)
    set_size: int = option(
        help="utterances of a speaker in a batch (K), drawn anew every epoch", default=8
    )
    short_speakers: Literal["error", "leave_out", "smaller_set"] = option(
        help="what to do with speakers who have fewer utterances than set_size", default="error"
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_sets", "set_size")


class UtterancePlan:
    """Batches of utterances of similar length.

    Utterances are shuffled into pools, sorted by length within a pool, and cut where a batch is
    full; the batches are then shuffled again. With the class of each utterance in `classes` [N],
    every class has the same share of an epoch.
    """

    def __init__(
        self,
        seconds: NDArray[np.float64],
        view: UtteranceView,
        *,
        seed: int,
        classes: NDArray[np.int64] | None = None,
    ) -> None:
        if not (seconds > 0).all():
            raise ConfigError(
                "utterances: some json gives no `duration_seconds` above 0, which batches are "
                "planned by; shards that `emostream pack` makes carry it, measured when they were "
                "labeled"
            )
        self._seconds, self._view, self._seed = seconds, view, seed
        self._classes = classes
        self._lengths = seconds if classes is None else stepped_lengths(seconds)

    def epoch(self, number: int) -> list[PlannedBatch]:
        """Every utterance in exactly one batch; balanced by classes, as many utterances in all."""
        view, rng = self._view, _generator(self._seed, _UTTERANCES, number)
        if self._classes is None:
            order = rng.permutation(len(self._seconds))
        else:
            order = balanced_rows(self._classes, rng)
        pool_size = view.typical_size(self._seconds) * view.pool_batches
        pools = np.array_split(order, max(1, round(len(order) / pool_size)))

        batches = [
            rows
            for pool in pools
            for rows in self._cut(pool[np.argsort(self._lengths[pool], kind="stable")])
        ]

        return [_singles(batches[place]) for place in rng.permutation(len(batches))]

    def _cut(self, sorted_rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Cut the longest first: the first of a batch says what every other is padded to."""
        batches, start, rows = [], 0, np.ascontiguousarray(sorted_rows[::-1])

        while start < len(rows):
            fit = int(self._view.batch_seconds / self._lengths[rows[start]])
            end = start + max(1, min(fit, self._view.max_utterances))
            batches.append(rows[start:end])
            start = end

        return batches


class SpeakerSetPlan:
    """Batches of B speakers with K utterances each.

    A speaker's utterances are drawn without replacement from all that the speaker has.
    """

    def __init__(
        self, rows_by_speaker: Mapping[str, NDArray[np.int64]], view: SpeakerSetView, *, seed: int
    ) -> None:
        self._view, self._seed = view, seed
        self._speakers = _long_enough(rows_by_speaker, view)

    def epoch(self, number: int) -> list[PlannedBatch]:
        """Every speaker in exactly one batch; sizes of batches differ by at most one speaker."""
        rng = _generator(self._seed, _SETS, number)
        order = rng.permutation(len(self._speakers))
        batches = []
        for group in np.array_split(order, -(-len(order) // self._view.num_sets)):
            chosen = [self._draw(self._speakers[place], rng) for place in group]
            batches.append(_join(chosen))
        return batches

    def _draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        return rng.choice(rows, size=min(self._view.set_size, len(rows)), replace=False)


def evaluation_batches(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], set_size: int, *, seed: int = 0
) -> list[PlannedBatch]:
    """Random sets of at most `set_size` utterances of one speaker; each utterance is in one set.

    The last set of a speaker may be smaller (SetPeER, section V-A). `set_size` 0 puts all
    utterances of a speaker into one set.
    """
    batches = []
    for place, rows in enumerate(rows_by_speaker.values()):
        shuffled = _generator(seed, _EVALUATION, place).permutation(rows)
        step = set_size or len(rows)
        batches += [_join([shuffled[start : start + step]]) for start in range(0, len(rows), step)]

    return batches


def within_seconds(
    batches: Iterable[PlannedBatch], seconds: NDArray[np.float64], max_seconds: float
) -> list[PlannedBatch]:
    """Cut batches, in their order, so that none has more than `max_seconds`, padding included.

    `seconds` [rows of the index] are the lengths of utterances; one that is not known (NaN) counts
    nothing. A single utterance may be longer. Sets are cut too, so this is for utterances that are
    looked at one by one.
    """
    cut: list[PlannedBatch] = []
    for batch in batches:
        start, longest = 0, 0.0
        for place, length in enumerate(np.nan_to_num(seconds[batch.rows]).tolist()):
            longest = max(longest, length)
            if place > start and longest * (place + 1 - start) > max_seconds:
                cut.append(PlannedBatch(batch.rows[start:place], batch.sets[start:place]))
                start, longest = place, length
        cut.append(PlannedBatch(batch.rows[start:], batch.sets[start:]))

    return cut


def _long_enough(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], view: SpeakerSetView
) -> list[NDArray[np.int64]]:
    short = [speaker for speaker, rows in rows_by_speaker.items() if len(rows) < view.set_size]

    if short and view.short_speakers == "error":
        shown = f"{', '.join(short[:3])}{', ...' if len(short) > 3 else ''}"
        raise ConfigError(
            f"data.sets.set_size: got {view.set_size}, but {len(short)} of {len(rows_by_speaker)} "
            f"speakers have fewer utterances ({shown}); lower it, or set data.sets.short_speakers "
            "to leave_out or smaller_set"
        )

    left_out = set(short) if view.short_speakers == "leave_out" else set()
    kept = [rows for speaker, rows in rows_by_speaker.items() if speaker not in left_out]

    if not kept:
        raise ConfigError(f"set_size: got {view.set_size}, and no speaker has that many utterances")

    return kept


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, number)))


def _singles(rows: NDArray[np.int64]) -> PlannedBatch:
    return PlannedBatch(rows, np.arange(len(rows)))


def _join(sets: list[NDArray[np.int64]]) -> PlannedBatch:
    return PlannedBatch(
        np.concatenate(sets), np.repeat(np.arange(len(sets)), [len(rows) for rows in sets])
    )
