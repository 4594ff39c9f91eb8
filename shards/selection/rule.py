"""The selection rule: which utterances get a weak label, and why the others are rejected.

The rule is a pure function of the predictions. Its steps follow the published order
(setpeer-emoceleb, section III; what the paper leaves out comes from its authors' code):

1. The teachers must agree: their distance is at most the threshold.
2. The label is the most probable of all seven emotions in the mean of the teachers' distributions.
   Where it is asked for, that mean must be confident.
3. A label must be one of the wanted classes.
4. Majority classes are down-sampled by chance.
5. A speaker must have a minimum number of utterances left.
6. The speakers that are left are divided into splits.

An utterance without a speaker is rejected before the down-sampling: training needs a speaker, so
such an utterance must not count toward a keep rate. Teachers that do not know the same emotions are
compared with care (`shards.selection.coverage`). An utterance that is filtered out
(`--where`) counts for nothing, not even for `match-kl`.

No decision depends on the order of rows, or on how many workers made the tables: chance is a hash
of the seed and the utterance's own name. The published code draws from one generator in turn. That
was left out, because one more utterance in the first shard would change every decision after it.

Rows, speakers, shards and classes are all numbers here, and -1 means none. As an index, -1 reads
the last entry of an array, so every look-up that can meet a -1 says why its answer is harmless.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import entr

from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.selection.agreement import matched_threshold, pairwise_distance
from shards.selection.config import PUBLISHED_KL_THRESHOLD, SelectConfig
from shards.selection.coverage import (
    Known,
    put_apart,
)
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
    """N utterances to select from, in any order; every array has one entry for each utterance.

    `shard` holds positions in the sorted names `shards`. `speaker` holds positions in the sorted
    names `speakers`, and -1 for an utterance without a speaker. `error` holds None or a reason.
    `teachers` maps each teacher to its distributions [N, 7] in float64; a row is NaN where the
    teacher gives no prediction. `truth` holds positions in EMOTIONS, and -1 where the true emotion
    is not known. `seconds` is NaN where the length is not known. No decision looks at `truth` or
    `seconds`. `filtered` holds the reason of each utterance that is filtered out, and None for the
    others. `known` holds the emotions [7] that a teacher knows; one that it leaves out knows all.
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
    filtered: NDArray[np.object_] | None = None
    known: Mapping[str, Known] = field(default_factory=dict)

    def known_by(self, teachers: Sequence[str]) -> dict[str, Known]:
        """The emotions [7] that each of the teachers knows."""
        every = np.ones(NUM_EMOTIONS, dtype=bool)
        return {name: self.known.get(name, every) for name in teachers}

    def __len__(self) -> int:
        return len(self.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The decision for each of N candidates, in the candidates' order.

    `reason` says why a candidate is rejected; None for a kept one. `probs` [N, 7] is the mean of
    the teachers' distributions. `label` is the position in EMOTIONS of the largest of `probs`, and
    -1 where the prediction of a teacher is missing or invalid. `distance` is how far apart the
    teachers are, in nats; NaN for a single teacher. `split` is the name of a kept candidate's
    split; None for a rejected one. `threshold` and `rates` are the numbers that the decisions were
    made with, even where they were derived from the data. One teacher has no threshold.
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
    """The reasons given so far. An utterance keeps the first reason that it is given."""

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
    """Apply the rule of `config` to `candidates`.

    Candidates in another order get the same decisions in that order.
    """
    decisions = _Decisions(len(candidates))
    for name in config.teachers:
        _reject_unpredicted(decisions, candidates, name)

    if candidates.filtered is not None:
        for row in np.flatnonzero(candidates.filtered.astype(bool) & decisions.kept):
            decisions.reject_row(int(row), candidates.filtered[row])
    known = candidates.known_by(config.teachers)
    predictions = {name: candidates.teachers[name] for name in config.teachers}
    for outside, reason in put_apart(predictions, known):
        decisions.reject(outside, reason)

    # Where one teacher gives no usable prediction, the others' predictions become NaN too: such a
    # row must have no distance and no label, and `match-kl` must not count it.
    teachers = [_blank(candidates.teachers[name], ~decisions.kept) for name in config.teachers]
    distance = pairwise_distance(teachers, config.distance, list(known.values()))
    threshold = resolve_threshold(teachers, config, list(known.values()))
    probs = np.mean(teachers, axis=0)
    label = labels_of(probs)

    # From here on the order of the steps matters: the first reason stays, and the rates, the
    # speakers' counts and the splits are all made from the rows that are kept at that point.
    if threshold is not None:
        decisions.reject(distance > threshold, "disagreement")
    _reject_unsure(decisions, probs, config)
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
    """The most probable emotion of each row of `probs` [N, 7] as a position; -1 for rows with NaN.

    Of equally probable emotions, the first in EMOTIONS is taken.
    """
    # argmax would take NaN for the largest number, so rows with NaN are left at -1.
    present = ~np.isnan(probs).any(axis=1)
    label = np.full(len(probs), -1, dtype=np.int64)
    label[present] = probs[present].argmax(axis=1)

    return label


def class_numbers(config: SelectConfig) -> list[int]:
    """The wanted classes as positions in EMOTIONS."""
    return [EMOTIONS.index(name) for name in config.classes]


def resolve_threshold(
    teachers: Sequence[NDArray[np.float64]],
    config: SelectConfig,
    known: Sequence[Known] | None = None,
) -> float | None:
    """The threshold as a number; `match-kl` is computed from the data. None for one teacher."""
    if len(teachers) == 1:
        return None
    if not isinstance(config.threshold, str):
        return float(config.threshold)

    # A row without a usable prediction has the distance NaN and is not counted: NaN <= 1 is false.
    kept_by_kl = int((pairwise_distance(teachers, "kl", known) <= PUBLISHED_KL_THRESHOLD).sum())
    return matched_threshold(pairwise_distance(teachers, "js"), kept_by_kl)


def resolve_rates(label: NDArray[np.int64], config: SelectConfig) -> dict[str, float]:
    """The share to keep of each class that is down-sampled.

    The shares are `keep_rates`, or follow from `balance_to`: the published 10000/150123 of neutral
    is a `balance_to` of 10000 over a count of 150123. `label` holds the labels of the utterances on
    which the teachers agree, whose class is wanted, and which have a speaker.
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
    """A number in [0, 1) for each name, which depends on the seed, the purpose and that name only.

    The purpose keeps two draws of one seed apart: the down-sampling and the splits.
    """
    # The beginning of the hashed text is the same for all names, so it is hashed once.
    start = hashlib.blake2b(f"{purpose}\0{seed}\0".encode(), digest_size=8)
    digests = bytearray()
    for name in names:
        state = start.copy()
        state.update(name.encode())
        digests += state.digest()

    # A float64 holds 53 bits exactly. With all 64 bits, the largest numbers would round to 1.
    return (np.frombuffer(bytes(digests), dtype=">u8") >> 11) / 2.0**53


def _reject_unpredicted(decisions: _Decisions, candidates: Candidates, name: str) -> None:
    """Reject the rows that have no usable prediction of the teacher `name`.

    The reason of a row without a prediction is the row's own error, if it has one. A row for which
    all teachers give a prediction is not rejected for its error: that error is about a modality
    that is not a teacher here.
    """
    probs = candidates.teachers[name]
    missing = np.isnan(probs).all(axis=1)
    for row in np.flatnonzero(missing & decisions.kept):
        decisions.reject_row(
            int(row),
            candidates.error[row] or f"missing_prediction: teacher {name!r} gives no prediction",
        )

    # A row with NaN for some emotions only is invalid, not missing: comparisons with NaN are false.
    valid = (probs >= 0).all(axis=1) & (abs(probs.sum(axis=1) - 1) <= SUM_TOLERANCE)
    decisions.reject(
        ~missing & ~valid,
        f"invalid_prediction: teacher {name!r} gives numbers that are not a distribution",
    )


def _reject_unsure(decisions: _Decisions, probs: NDArray[np.float64], config: SelectConfig) -> None:
    """Reject the labels that the mean distribution [N, 7] is not sure of, where that is asked for.

    Comparisons with NaN are false, so rows without a distribution keep their earlier reason.
    """
    if config.min_confidence is not None:
        decisions.reject(probs.max(axis=1) < config.min_confidence, "low_confidence")
    if config.max_entropy is not None:
        decisions.reject(entr(probs).sum(axis=1) > config.max_entropy, "high_entropy")


def _blank(probs: NDArray[np.float64], rows: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(rows[:, np.newaxis], np.nan, probs)


def _down_sampled(
    kept: NDArray[np.bool_],
    candidates: Candidates,
    label: NDArray[np.int64],
    rates: Mapping[str, float],
    config: SelectConfig,
) -> NDArray[np.bool_]:
    """Which of the kept rows are dropped, as a mask [N].

    The published code goes through a speaker's utterances in file order, drops each of them by
    chance, and drops no more once the speaker is at the minimum. That code is described as stopping
    one above the minimum. The published totals fit only a stop at the minimum itself (74,100
    utterances of 1,480 speakers, 50.07 each, median 50, at a minimum of 50), and the totals are
    followed.
    """
    dropped = np.zeros(len(kept), dtype=bool)
    if not rates:
        return dropped

    # The share to keep of every class; it is 1 for a class that is not down-sampled.
    rate = np.ones(len(EMOTIONS))
    for name, share in rates.items():
        rate[EMOTIONS.index(name)] = share

    # `rows` and `unlucky` are row numbers, while `kept` and `dropped` are masks over all rows.
    # A label of -1 reads the rate of the last class, but no row with such a label is kept.
    rows = np.flatnonzero(kept & (rate[label] < 1))

    # Chance belongs to an utterance's place as well as its key, because shards may share keys. A
    # number lies in [0, 1), so it is below the class's rate with just that probability.
    places = zip(candidates.shard[rows], candidates.offset[rows], candidates.key[rows], strict=True)
    names = [f"{candidates.shards[shard]}\0{offset}\0{key}" for shard, offset, key in places]
    unlucky = rows[uniform_numbers(config.seed, "down-sample", names) >= rate[label[rows]]]

    # lexsort sorts by its last array first: by speaker, then by shard, then by offset. The unlucky
    # utterances of one speaker now lie side by side, in file order.
    order = np.lexsort(
        (candidates.offset[unlucky], candidates.shard[unlucky], candidates.speaker[unlucky])
    )
    unlucky = unlucky[order]
    speaker = candidates.speaker[unlucky]

    # The place of each unlucky utterance among those of its speaker. searchsorted gives where the
    # speaker begins: for the speakers 2 2 2 5 5 the beginnings are 0 0 0 3 3, the places 0 1 2 0 1.
    place = np.arange(len(unlucky)) - np.searchsorted(speaker, speaker)

    # A speaker can lose as many utterances as it has above the minimum, and loses its first unlucky
    # ones: the loop of the published code drops exactly these. A speaker below the minimum loses
    # none, because no place is below a negative number.
    num_kept = np.bincount(candidates.speaker[kept], minlength=len(candidates.speakers))
    dropped[unlucky[place < num_kept[speaker] - config.min_per_speaker]] = True

    return dropped


def _in_small_speaker(
    kept: NDArray[np.bool_], candidates: Candidates, minimum: int
) -> NDArray[np.bool_]:
    counts = np.bincount(candidates.speaker[kept], minlength=len(candidates.speakers))

    # A row without a speaker (-1) reads the last entry, which is the appended 0. Without it, the
    # look-up would fail where there are no speakers at all. Such a row is not kept in any case.
    return kept & (np.append(counts, 0)[candidates.speaker] < minimum)


def _split(
    kept: NDArray[np.bool_], candidates: Candidates, config: SelectConfig
) -> NDArray[np.object_]:
    """The name of the split of each kept row, and None for the other rows.

    The speakers are put into an order that their hashes give, and the order is cut at the shares.
    """
    speakers = np.unique(candidates.speaker[kept])
    chance = uniform_numbers(
        config.seed, "split", [candidates.speakers[number] for number in speakers]
    )
    drawn = speakers[np.argsort(chance, kind="stable")]

    # Of 10 speakers and the shares .7 .1 .2, the cuts are 7 8 10. The last cut is always the end,
    # and np.split wants only the cuts between the parts.
    cuts = np.round(np.cumsum(config.split_fractions) * len(drawn)).astype(int)

    # The one entry more than there are speakers stays None; a row without a speaker (-1) reads it.
    of_speaker = np.full(len(candidates.speakers) + 1, None, dtype=object)
    for name, members in zip(SPLITS, np.split(drawn, cuts[:-1]), strict=True):
        of_speaker[members] = name
    split = of_speaker[candidates.speaker]

    # Rows of a kept speaker that are rejected themselves have no split either.
    split[~kept] = None

    return split
