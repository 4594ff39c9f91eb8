"""Whole speakers are held out, about as many utterances as were asked for."""

from pathlib import Path

import numpy as np
import pytest

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from tests.worlds.training import PER_SPEAKER, write_training_world
from trainers.preparation.hold_out import hold_out_speakers


@pytest.fixture
def index(tmp_path: Path) -> CorpusIndex:
    """Eighteen speakers with six utterances each."""
    return read_index(write_training_world(tmp_path))


@pytest.mark.parametrize("share", [0.05, 0.15, 0.5])
def test_no_speaker_is_on_both_sides(index: CorpusIndex, share: float) -> None:
    """The share is exceeded by less than one speaker; another seed chooses others."""
    held_out = hold_out_speakers(index, share, seed=1)
    speakers = index.speaker_of_rows

    assert not set(speakers[held_out]) & set(speakers[~held_out])
    assert share <= held_out.mean() < share + PER_SPEAKER / len(index)
    assert not np.array_equal(held_out, hold_out_speakers(index, share, seed=2))


def test_a_corpus_of_one_speaker_is_refused(index: CorpusIndex) -> None:
    """Nothing would be left; the error gives the remedy."""
    with pytest.raises(ConfigError, match=r"model\.held_out=utterance"):
        hold_out_speakers(index.take(np.arange(PER_SPEAKER)), 0.15, seed=1)
