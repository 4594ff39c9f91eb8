"""Which utterances of test speakers a speaker-dependent model hears.

Training speakers make room for them.
"""

from itertools import pairwise

import numpy as np
import pytest

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.loading.known_speakers import known_utterances, training_utterances
from tests.worlds.training import write_training_world


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> CorpusIndex:
    return read_index(write_training_world(tmp_path_factory.mktemp("packed")))


def speakers_of(index: CorpusIndex, prefix: str) -> set[str]:
    return {speaker for speaker in index.speakers if speaker.startswith(prefix)}


def test_at_least_so_many_seconds_of_each_speaker_are_known(corpus: CorpusIndex) -> None:
    """The seconds asked for are known of each speaker, and no utterance more.

    They are always the same, and some utterances of everybody are left.
    """
    test = corpus.split("test")
    known = known_utterances(test, 0.7)
    assert (known == known_utterances(test, 0.7)).all()

    for rows in test.rows_by_speaker().values():
        mine = test.durations[rows][known[rows]]
        assert mine.sum() >= 0.7
        assert mine.sum() - mine.max() < 0.7
        assert len(mine) < len(rows)


def test_more_than_a_speaker_has_is_refused(corpus: CorpusIndex) -> None:
    """Seconds that leave nothing to measure on are refused."""
    with pytest.raises(ConfigError, match="some have to be left to measure on"):
        known_utterances(corpus.split("test"), 100.0)


def test_fewer_speakers_are_part_of_more(corpus: CorpusIndex) -> None:
    """Two of the training speakers are among four, with all their utterances."""
    two, four = (training_utterances(corpus, number, 0.0, "test") for number in (2, 4))
    assert set(two.speakers) < set(four.speakers)
    assert (len(two), len(four)) == (12, 24)
    assert training_utterances(corpus, None, 0.0, "test").digest == corpus.split("train").digest
    with pytest.raises(ConfigError, match="has 6 speakers"):
        training_utterances(corpus, 7, 0.0, "test")


def test_known_speakers_take_the_place_of_training_speakers(corpus: CorpusIndex) -> None:
    """The number of speakers stays, and evaluation leaves out exactly what is known of them."""
    some = CorpusIndex(
        corpus.table.filter(
            np.asarray([s not in ("test-4", "test-5") for s in corpus.table["speaker"].to_pylist()])
        )
    )

    dependent = training_utterances(some, 5, 0.7, "test")
    assert len(speakers_of(dependent, "test")) == 4
    assert speakers_of(dependent, "train") < set(training_utterances(some, 5, 0.0, "test").speakers)
    assert len(speakers_of(dependent, "train")) == 1

    test = some.split("test")
    heard = set(dependent.table["key"].to_pylist())
    assert {
        k
        for k, known in zip(test.table["key"].to_pylist(), known_utterances(test, 0.7), strict=True)
        if known
    } <= heard

    with pytest.raises(ConfigError, match="expected more than the 4 of test"):
        training_utterances(some, 4, 0.7, "test")


def test_every_number_of_speakers_is_part_of_the_next(corpus: CorpusIndex) -> None:
    """A curve over the number of speakers adds speakers and never exchanges them."""
    chosen = [
        set(training_utterances(corpus, number, 0.0, "test").speakers) for number in range(1, 7)
    ]
    assert all(fewer < more for fewer, more in pairwise(chosen))


def test_a_speaker_whose_last_utterance_would_be_needed_is_refused(corpus: CorpusIndex) -> None:
    """Seconds that need a speaker's last utterance are refused.

    Seconds that need one utterance less are enough.
    """
    mine = corpus.split("test").take(next(iter(corpus.split("test").rows_by_speaker().values())))
    with pytest.raises(ConfigError, match="some have to be left to measure on"):
        known_utterances(mine, float(mine.durations.sum()) - 1e-6)
    enough = float(mine.durations.sum() - mine.durations.max()) - 1e-6
    assert not known_utterances(mine, enough).all()
