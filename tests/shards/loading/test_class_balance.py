"""An epoch balanced by classes: equal shares, everyone in turn, and as exact a resume as any."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.loading.batch_plan import UtterancePlan, UtteranceView
from shards.loading.class_balance import LENGTH_STEP, balanced_rows, stepped_lengths
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import TrainingLoader
from tests.shards.loading.test_loader import reader_of, rows
from tests.worlds.training import write_training_world

class_sizes = st.lists(st.integers(1, 40), min_size=1, max_size=8)


@given(class_sizes, st.integers(0, 5))
def test_classes_have_equal_shares_and_everyone_comes_in_turn(sizes: list[int], seed: int) -> None:
    """Of an epoch as long as the corpus, classes differ by one utterance at most.

    So do, in how often they come, the utterances of a class.
    """
    classes = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    drawn = balanced_rows(classes, np.random.default_rng(seed))
    assert len(drawn) == len(classes)

    shares = np.bincount(classes[drawn], minlength=len(sizes))
    assert shares.max() - shares.min() <= 1
    times = np.bincount(drawn, minlength=len(classes))
    for number in range(len(sizes)):
        mine = times[classes == number]
        assert mine.max() - mine.min() <= 1


@given(st.lists(st.floats(0.3, 20.0), min_size=2, max_size=100), st.floats(1.0, 60.0))
def test_batches_keep_to_the_budget(seconds: list[float], budget: float) -> None:
    """Padded to its longest, a balanced batch fits the budget, unless one utterance exceeds it."""
    view = UtteranceView(batch_seconds=budget, pool_batches=3)
    classes = np.arange(len(seconds)) % 3
    for batch in UtterancePlan(np.asarray(seconds), view, seed=1, classes=classes).epoch(0):
        longest = max(seconds[row] for row in batch.rows)
        assert len(batch.rows) == 1 or longest * len(batch.rows) <= budget + 1e-9


@given(st.lists(st.floats(0.025, 3600.0), min_size=1, max_size=20))
def test_steps_are_no_shorter_and_little_longer(seconds: list[float]) -> None:
    """A stepped length is at least the length, and less than a step above it."""
    found = stepped_lengths(np.asarray(seconds))
    assert (found >= seconds).all()
    assert (found <= np.asarray(seconds) * LENGTH_STEP * (1 + 1e-9)).all()


def test_over_epochs_every_utterance_of_a_frequent_class_comes() -> None:
    """The part of a frequent class is drawn anew in each epoch; the rare come as often as it."""
    classes = np.repeat([0, 1], [980, 20])
    plan = UtterancePlan(np.ones(1000), UtteranceView(), seed=3, classes=classes)
    counts = Counter(
        row for epoch in range(30) for batch in plan.epoch(epoch) for row in batch.rows.tolist()
    )
    assert set(counts) == set(range(1000))
    assert {counts[row] for row in range(980, 1000)} == {30 * 25}


def test_copies_do_not_come_in_clumps() -> None:
    """The share of a rare class, of one half, spreads little from batch to batch."""
    seconds = np.random.default_rng(0).lognormal(1.2, 0.5, 1000).clip(0.5, 20.0)
    classes = np.repeat([0, 1], [980, 20])
    batches = UtterancePlan(seconds, UtteranceView(), seed=0, classes=classes).epoch(0)
    shares = [classes[batch.rows].mean() for batch in batches if len(batch.rows) >= 6]
    assert np.std(shares) < 0.25  # sorted by exact lengths, .39


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("world")))


def loader_of(index: CorpusIndex, **options: int) -> TrainingLoader:
    classes = np.asarray(index.table["label"].to_pylist()) == "anger"
    view = UtteranceView(batch_seconds=2.0, pool_batches=2)
    plan = UtterancePlan(index.durations, view, seed=5, classes=classes.astype(np.int64))
    return TrainingLoader(reader_of(index), plan, identity="this", **options)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_share_one_order_and_resume_anywhere(index: CorpusIndex, world_size: int) -> None:
    """Every rank has as many batches, together they are the one order, and a resume goes on."""
    expected = rows(iter(loader_of(index, batches_per_step=6)), 60)
    options = {"batches_per_step": 6, "world_size": world_size}
    shares = [
        rows(iter(loader_of(index, rank=rank, **options)), 60 // world_size)
        for rank in range(world_size)
    ]
    assert sorted(batch for share in shares for batch in share) == expected

    # Four steps lead into the second epoch.
    first = loader_of(index, **options)
    list(islice(iter(first), 4 * 6 // world_size))
    resumed = loader_of(index, batches_per_step=6)
    resumed.load_state_dict(first.state_dict())
    assert rows(iter(resumed), 12) == expected[24:36]
