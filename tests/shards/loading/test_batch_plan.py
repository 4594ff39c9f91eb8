"""Plans hold everything once an epoch, with little padding, in the same order for everyone.

What is impossible is an error.
"""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.loading.batch_plan import (
    PlannedBatch,
    SpeakerSetPlan,
    SpeakerSetView,
    UtterancePlan,
    UtteranceView,
    evaluation_batches,
    within_seconds,
)

lengths = st.lists(st.floats(0.3, 20.0), min_size=1, max_size=120)
speaker_sizes = st.lists(st.integers(1, 30), min_size=1, max_size=25)


def speakers_of(sizes: list[int]) -> dict[str, np.ndarray]:
    ends = np.cumsum(sizes)
    return {
        f"s{place:02d}": np.arange(end - size, end)
        for place, (size, end) in enumerate(zip(sizes, ends, strict=True))
    }


@settings(deadline=None)
@given(lengths, st.integers(0, 3), st.floats(1.0, 60.0), st.integers(1, 20))
def test_every_utterance_is_in_one_batch_under_the_budget(
    seconds: list[float], epoch: int, budget: float, largest: int
) -> None:
    """Padded to its longest, a batch fits the budget, unless one utterance alone exceeds it."""
    view = UtteranceView(batch_seconds=budget, max_utterances=largest, pool_batches=3)
    batches = UtterancePlan(np.asarray(seconds), view, seed=1).epoch(epoch)

    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(
        range(len(seconds))
    )

    for batch in batches:
        longest = max(seconds[row] for row in batch.rows)
        assert len(batch.rows) == 1 or longest * len(batch.rows) <= budget + 1e-9
        assert len(batch.rows) <= largest
        assert batch.sets.tolist() == list(range(len(batch.rows)))


def test_padding_stays_under_five_percent() -> None:
    """Of 5,000 utterances of log-normal length, the default view pads less than 5 %."""
    seconds = np.random.default_rng(0).lognormal(1.2, 0.5, 5_000).clip(0.5, 20.0)
    batches = UtterancePlan(seconds, UtteranceView(), seed=0).epoch(0)
    padded = sum(seconds[batch.rows].max() * len(batch.rows) for batch in batches)
    assert 1 - seconds.sum() / padded < 0.05


def test_orders_differ_by_epoch_and_seed_only() -> None:
    """The same seed and epoch give the same batches; another seed or epoch does not."""
    seconds = np.random.default_rng(0).uniform(1, 5, 300)

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [
            batch.rows.tolist()
            for batch in UtterancePlan(seconds, UtteranceView(), seed=seed).epoch(epoch)
        ]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@settings(deadline=None)
@given(speaker_sizes, st.integers(1, 8), st.integers(1, 8), st.integers(0, 3))
def test_every_speaker_is_in_one_batch_with_distinct_utterances(
    sizes: list[int], num_sets: int, set_size: int, epoch: int
) -> None:
    """Each speaker has K different utterances of their own, fewer only if there are fewer.

    Batches differ in size by at most one speaker.
    """
    rows = speakers_of(sizes)
    owner = {int(row): speaker for speaker, mine in rows.items() for row in mine}
    view = SpeakerSetView(num_sets=num_sets, set_size=set_size, short_speakers="smaller_set")
    batches = SpeakerSetPlan(rows, view, seed=0).epoch(epoch)

    seen: Counter[str] = Counter()
    for batch in batches:
        assert len(set(batch.rows.tolist())) == len(batch.rows)
        for number in range(batch.sets.max() + 1):
            members = batch.rows[batch.sets == number].tolist()
            (speaker,) = {owner[row] for row in members}
            assert len(members) == min(set_size, len(rows[speaker]))
            seen[speaker] += 1
    assert seen == Counter(list(rows))

    widths = [batch.sets.max() + 1 for batch in batches]
    assert max(widths) <= num_sets
    assert max(widths) - min(widths) <= 1


def test_utterances_are_drawn_from_all_of_a_speakers() -> None:
    """Over many epochs, every utterance is drawn about as often as any other."""
    plan = SpeakerSetPlan(speakers_of([20]), SpeakerSetView(set_size=5), seed=0)
    counts = Counter(row for epoch in range(400) for row in plan.epoch(epoch)[0].rows.tolist())
    assert len(counts) == 20
    assert min(counts.values()) > 70  # 100 expected, standard deviation 9
    assert max(counts.values()) < 130


def test_short_speakers_are_an_error_unless_said_otherwise() -> None:
    """The error says how many, who, and what to do; short speakers can be left out."""
    rows = speakers_of([8, 3, 9])
    with pytest.raises(
        ConfigError,
        match=r"1 of 3 speakers have fewer utterances \(s01\); lower it, or set data.sets",
    ):
        SpeakerSetPlan(rows, SpeakerSetView(), seed=0)

    (batch,) = SpeakerSetPlan(rows, SpeakerSetView(short_speakers="leave_out"), seed=0).epoch(0)
    assert len(batch.rows) == 16

    with pytest.raises(ConfigError, match="no speaker has that many"):
        SpeakerSetPlan(speakers_of([2]), SpeakerSetView(short_speakers="leave_out"), seed=0)


@settings(deadline=None)
@given(speaker_sizes, st.integers(0, 9))
def test_evaluation_sees_every_utterance_once_among_its_own(
    sizes: list[int], set_size: int
) -> None:
    """Each batch is a set of one speaker with at most K utterances; only the last is smaller."""
    rows = speakers_of(sizes)
    owner = {int(row): speaker for speaker, mine in rows.items() for row in mine}
    batches = evaluation_batches(rows, set_size)

    assert sorted(np.concatenate([batch.rows for batch in batches]).tolist()) == list(
        range(sum(sizes))
    )

    per_speaker: dict[str, list[int]] = {}
    for batch in batches:
        (speaker,) = {owner[row] for row in batch.rows.tolist()}
        per_speaker.setdefault(speaker, []).append(len(batch.rows))

    for counts in per_speaker.values():
        assert all(count == (set_size or sum(counts)) for count in counts[:-1])
        assert 0 < counts[-1] <= (set_size or sum(counts))


def test_utterances_without_a_length_are_refused() -> None:
    """An utterance of unknown length is refused, as batches are planned by length."""
    with pytest.raises(ConfigError, match="duration_seconds"):
        UtterancePlan(np.asarray([1.0, np.nan]), UtteranceView(), seed=0)


@given(st.lists(st.floats(0.1, 200.0) | st.just(np.nan), min_size=1, max_size=30))
def test_batches_are_cut_to_the_seconds_they_may_have(lengths: list[float]) -> None:
    """Rows keep their order, no batch of several is longer, and none could take the next one."""
    seconds = np.asarray(lengths)
    parts = np.array_split(np.arange(len(lengths))[::-1], 2)
    given = [PlannedBatch(part, part * 2) for part in parts if len(part)]
    cut = within_seconds(given, seconds, 240.0)

    def padded(rows: list[int]) -> float:
        return len(rows) * max(np.nan_to_num(seconds[rows]))

    assert np.concatenate([one.rows for one in cut]).tolist() == np.concatenate(parts).tolist()
    assert all((one.sets == one.rows * 2).all() for one in cut)
    assert all(len(one.rows) == 1 or padded(one.rows.tolist()) <= 240 for one in cut)

    for one, following in pairwise(cut):
        together = any({one.rows[-1], following.rows[0]} <= set(part.tolist()) for part in parts)
        assert not together or padded([*one.rows.tolist(), int(following.rows[0])]) > 240
