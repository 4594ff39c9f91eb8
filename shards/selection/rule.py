"""The selection rule: which utterances get a weak label, and why the others do not. A pure function
of the predictions.

The steps, in the published order (setpeer-emoceleb, section III; what the paper leaves out, from
its authors' code): agreement of the teachers, mean of their distributions, argmax over all seven
emotions, restriction to the wanted classes, down-sampling of the majority, minimum number per
speaker, split by speaker. An utterance without a speaker is rejected before the down-sampling:
training needs one, so it must not count toward a rate.

Nothing depends on the order of rows or on how many workers made the tables: chance is a hash of the
seed and the utterance's own name. A generator drawn from in turn, as the published code has it,
lost: one more utterance in the first shard would change every decision after it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS
from shards.selection.agreement import matched_threshold, pairwise_distance
from shards.selection.config import PUBLISHED_KL_THRESHOLD, SelectConfig
from shards.splits import SPLITS

__all__ = [
    "SPLITS",
    "Candidates",
    "SelectConfig",
    "Selection",
    "choose",
    "class_numbers",
    "labels_of",
]

# A softmax in bfloat16 sums to 1 within 0.4 %.
SUM_TOLERANCE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """N utterances to select from, in any order.

    `shard` and `speaker` are positions in the sorted names `shards` and `speakers`, -1 for no
    speaker. `error` holds None or a reason. `teachers` has one [N, 7] float64 distribution a
    teacher, NaN where it has no prediction. `truth` is a position in EMOTIONS or -1, and `seconds`
    may be NaN: no decision looks at these two.
    """

    key: NDArray[np.object_]
    shard: NDArray[np.int64]
    shards: Sequence[str]
    offset: NDArray[np.int64]
    speaker: NDArray[np.int64]
    speakers: Sequence[str]
    error: NDArray[np.object_]
    teachers: Mapping[str, NDArray[np.float64]]
    truth: NDArray[np.int64]
    seconds: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The decision for each of N candidates.

    `reason` says why not, None for the kept. `probs` [N, 7] is the mean of the teachers'
    distributions, `label` its argmax (position in EMOTIONS, -1 where a teacher is missing),
    `distance` NaN for a single teacher, `split` the name of the split for kept rows. `threshold`
    and `rates` are those in force, derived ones included; one teacher has no threshold.
    """

    reason: NDArray[np.object_]
    kept: NDArray[np.bool_]
    label: NDArray[np.int64]
    probs: NDArray[np.float64]
    distance: NDArray[np.float64]
    split: NDArray[np.object_]
    threshold: float | None
    rates: Mapping[str, float]


class _Decisions:
    """Reasons as they are given; the first reason of an utterance stays."""

    def __init__(self, size: int) -> None:
        self.reason = np.full(size, None, dtype=object)
        self.kept = np.ones(size, dtype=bool)

    def reject(self, which: NDArray[np.bool_], reason: str) -> None:
        self.reason[which & self.kept] = reason
        self.kept &= ~which

    def reject_row(self, row: int, reason: str) -> None:
        self.reason[row] = reason
        self.kept[row] = False


def choose(candidates: Candidates, config: SelectConfig) -> Selection:
    """Apply the rule of `config` to `candidates`; permuted candidates give the same decisions,
    permuted.
    """
    decisions = _Decisions(len(candidates))
    for name in config.teachers:
        _reject_unpredicted(decisions, candidates, name)
    teachers = [_blank(candidates.teachers[name], ~decisions.kept) for name in config.teachers]
    distance = pairwise_distance(teachers, config.distance)
    threshold = resolve_threshold(teachers, config)
    probs = np.mean(teachers, axis=0)
    label = labels_of(probs)
    if threshold is not None:
        decisions.reject(distance > threshold, "disagreement")
    decisions.reject(~np.isin(label, class_numbers(config)), "class_excluded")
    decisions.reject(candidates.speaker < 0, "no_speaker")
    rates = resolve_rates(label[decisions.kept], config)
    decisions.reject(
        _down_sampled(decisions.kept, candidates, label, rates, config), "down_sampled"
    )
    decisions.reject(
        _in_small_speaker(decisions.kept, candidates, config.min_per_speaker),
        "speaker_below_minimum",
    )
    return Selection(
        reason=decisions.reason,
        kept=decisions.kept,
        label=label,
        probs=probs,
        distance=distance,
        split=_split(decisions.kept, candidates, config),
        threshold=threshold,
        rates=rates,
    )


def labels_of(probs: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most probable emotion of each row of [N, 7], the first of equals; -1 for rows with
    NaN.
    """
    present = ~np.isnan(probs).any(axis=1)
    label = np.full(len(probs), -1, dtype=np.int64)
    label[present] = probs[present].argmax(axis=1)
    return label


def class_numbers(config: SelectConfig) -> list[int]:
    """The wanted classes as positions in EMOTIONS."""
    return [EMOTIONS.index(name) for name in config.classes]


def resolve_threshold(
    teachers: Sequence[NDArray[np.float64]], config: SelectConfig
) -> float | None:
    """The threshold as a number; `match-kl` is found from the data, and one teacher has none."""
    if len(teachers) == 1:
        return None
    if not isinstance(config.threshold, str):
        return float(config.threshold)
    kept_by_kl = int((pairwise_distance(teachers, "kl") <= PUBLISHED_KL_THRESHOLD).sum())
    return matched_threshold(pairwise_distance(teachers, "js"), kept_by_kl)


def resolve_rates(label: NDArray[np.int64], config: SelectConfig) -> dict[str, float]:
    """The share of each down-sampled class to keep: given, or `balance_to` over its count, as
    10000/150123 was.

    `label` are those of the utterances that agree, are of a wanted class and have a speaker.
    """
    if config.balance_to is None:
        return config.rates()
    counts = np.bincount(label, minlength=len(EMOTIONS))
    numbers = {name: int(counts[EMOTIONS.index(name)]) for name in config.classes}
    return {
        name: config.balance_to / number
        for name, number in numbers.items()
        if number > config.balance_to
    }


def uniform_numbers(seed: int, purpose: str, names: Sequence[str]) -> NDArray[np.float64]:
    """A number in [0, 1) for each name, a function of the seed, the purpose and that name only."""
    start = hashlib.blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    digests = bytearray()
    for name in names:
        state = start.copy()
        state.update(name.encode())
        digests += state.digest()
    # 53 bits are what a float64 holds; with more, the largest would round to 1.
    return (np.frombuffer(bytes(digests), dtype=">u8") >> 11) / 2.0**53


def _reject_unpredicted(decisions: _Decisions, candidates: Candidates, name: str) -> None:
    """Reject rows that lack a usable prediction of teacher `name`, with their own error where they
    have one.

    A row whose teachers all spoke is not rejected for its error: that is about a modality nobody
    asked.
    """
    probs = candidates.teachers[name]
    missing = np.isnan(probs).all(axis=1)
    for row in np.flatnonzero(missing & decisions.kept):
        decisions.reject_row(
            int(row), candidates.error[row] or f"missing_prediction: teacher {name!r} says nothing"
        )
    valid = (probs >= 0).all(axis=1) & (abs(probs.sum(axis=1) - 1) <= SUM_TOLERANCE)
    decisions.reject(
        ~missing & ~valid, f"invalid_prediction: teacher {name!r} gives no distribution"
    )


def _blank(probs: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(rows[:, np.newaxis], np.nan, probs)


def _down_sampled(
    kept: NDArray[np.bool_],
    candidates: Candidates,
    label: NDArray[np.int64],
    rates: Mapping[str, float],
    config: SelectConfig,
) -> NDArray[np.bool_]:
    """Which of the kept rows go.

    As in the published code a speaker's utterances are looked at in file order, each is dropped by
    chance, and nothing more is dropped once the speaker is at the minimum. The code is said to stop
    one above it; the published totals say otherwise (74,100 utterances of 1,480 speakers, 50.07
    each, median 50, at a minimum of 50), and they are followed.
    """
    dropped = np.zeros(len(kept), dtype=bool)
    if not rates:
        return dropped
    rate = np.ones(len(EMOTIONS))
    for name, share in rates.items():
        rate[EMOTIONS.index(name)] = share
    rows = np.flatnonzero(kept & (rate[label] < 1))
    places = zip(candidates.shard[rows], candidates.offset[rows], candidates.key[rows], strict=True)
    names = [f"{candidates.shards[shard]}\0{offset}\0{key}" for shard, offset, key in places]
    unlucky = rows[uniform_numbers(config.seed, "down-sample", names) >= rate[label[rows]]]
    order = np.lexsort(
        (candidates.offset[unlucky], candidates.shard[unlucky], candidates.speaker[unlucky])
    )
    unlucky = unlucky[order]
    speaker = candidates.speaker[unlucky]
    place = np.arange(len(unlucky)) - np.searchsorted(
        speaker, speaker
    )  # 0, 1, ... within the speaker
    num_kept = np.bincount(candidates.speaker[kept], minlength=len(candidates.speakers))
    dropped[unlucky[place < num_kept[speaker] - config.min_per_speaker]] = True
    return dropped


def _in_small_speaker(
    kept: NDArray[np.bool_], candidates: Candidates, minimum: int
) -> NDArray[np.bool_]:
    counts = np.bincount(candidates.speaker[kept], minlength=len(candidates.speakers))
    return kept & (np.append(counts, 0)[candidates.speaker] < minimum)


def _split(
    kept: NDArray[np.bool_], candidates: Candidates, config: SelectConfig
) -> NDArray[np.object_]:
    """The split of each kept row: speakers in an order drawn by hash, cut at the nominal shares."""
    speakers = np.unique(candidates.speaker[kept])
    chance = uniform_numbers(
        config.seed, "split", [candidates.speakers[number] for number in speakers]
    )
    drawn = speakers[np.argsort(chance, kind="stable")]
    cuts = np.round(np.cumsum(config.split_fractions) * len(drawn)).astype(int)
    of_speaker = np.full(len(candidates.speakers) + 1, None, dtype=object)
    for name, members in zip(SPLITS, np.split(drawn, cuts[:-1]), strict=True):
        of_speaker[members] = name
    split = of_speaker[candidates.speaker]
    split[~kept] = None
    return split
