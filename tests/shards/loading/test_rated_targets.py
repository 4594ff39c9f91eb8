"""Ratings as a target: votes of a stimulus become distributions over the classes that they name."""

from pathlib import Path

import numpy as np
import pytest

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.loading.subsets import subset
from shards.loading.targets import (
    TargetConfig,
    labels_outside,
    read_stimuli,
    read_targets,
    require_known_labels,
    resolve_classes,
)
from shards.samples.sample import Sample
from tests.worlds.small import write_shard

RATED = TargetConfig(kind="ratings")
RATINGS = (
    {"voice": {"Happy": 3, "anger": 1}, "audiovisual": {"joy": 2, "happiness": 1, "anger": 1}},
    {"voice": {"neutral": 2}, "audiovisual": {"neutral": 0, "boredom": 5, "calm": 1}},
    {"voice": {"fear": 1, "anger": 0}},
)


@pytest.fixture
def index(tmp_path: Path) -> CorpusIndex:
    samples = [
        Sample(key=f"u{n}", transcript="a", metadata={"speaker": "s", "ratings": ratings})
        for n, ratings in enumerate(RATINGS)
    ]
    write_shard(tmp_path / "a.tar", samples)
    return read_index(f"{tmp_path}/a.tar")


def test_the_votes_of_the_stimulus_give_classes_and_shares(index: CorpusIndex) -> None:
    """A class needs a vote; an utterance that raters of this stimulus did not see is unknown."""
    names = resolve_classes(index, RATED)
    assert names == ("anger", "happiness", "boredom", "calm")
    found = read_targets(index, RATED, names)
    assert found.kind == "ratings"
    np.testing.assert_allclose(
        found.array, [[0.25, 0.75, 0, 0], [0, 0, 5 / 6, 1 / 6], [np.nan] * 4], rtol=1e-6
    )
    assert found.labels.tolist() == [1, 2, -1]

    voice = TargetConfig(kind="ratings", stimulus="voice")
    assert resolve_classes(index, voice) == ("neutral", "anger", "fear", "happiness")


def test_merged_labels_count_as_their_class(index: CorpusIndex) -> None:
    """Votes for calm are votes for boredom once they are merged."""
    config = TargetConfig(kind="ratings", merge={"calm": "boredom"})
    names = resolve_classes(index, config)
    assert names == ("anger", "happiness", "boredom")
    assert read_targets(index, config, names).array[1].tolist() == [0, 0, 1]


def test_all_stimuli_are_read_side_by_side(index: CorpusIndex) -> None:
    """One block a stimulus over the same classes, unknown where it was not rated."""
    found = read_stimuli(index, RATED, ("anger", "happiness"))
    assert list(found) == ["voice", "face", "audiovisual"]
    np.testing.assert_allclose(found["voice"].array[0], [0.25, 0.75])
    assert not found["face"].known.any()
    assert found["audiovisual"].known.tolist() == [True, False, False]


def test_utterances_without_a_vote_for_any_class_are_named(index: CorpusIndex) -> None:
    """They are no target of these classes, and stop the run unless they are to be dropped."""
    config = TargetConfig(kind="ratings", classes=("anger", "happiness"))
    assert labels_outside(index, config, config.wanted) == {"boredom": 1}
    with pytest.raises(ConfigError, match=r"1 of 3 utterances .* boredom 1"):
        require_known_labels(index, config, config.wanted, "train")


def test_what_has_no_votes_is_refused(index: CorpusIndex) -> None:
    """A class without a vote, and a stimulus without raters, are errors that name the remedy."""
    with pytest.raises(ConfigError, match=r"no training utterance has a vote for neutral"):
        resolve_classes(index, TargetConfig(kind="ratings", classes=("neutral", "anger")))
    with pytest.raises(ConfigError, match=r"`ratings.face` .* 0 classes.*data.target.stimulus"):
        resolve_classes(index, TargetConfig(kind="ratings", stimulus="face"))
    with pytest.raises(ConfigError, match="stimulus: got voice for kind label"):
        TargetConfig(stimulus="voice")


def test_a_subset_keeps_the_shares_of_likeliest_classes(index: CorpusIndex) -> None:
    """Rated utterances are subsampled by class, as labeled ones are."""
    known = index.take(np.asarray([0, 0, 0, 1, 1, 1]))
    targets = read_targets(known, RATED, ("anger", "happiness", "boredom", "calm"))
    _, chosen = subset(known, targets, 2, 0)
    assert sorted(chosen.labels.tolist()) == [1, 2]
