"""Votes become counts, distributions, labels and class weights, exactly at the limits too."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.ratings import (
    class_weights,
    count_votes,
    distributions,
    multi_hot,
    votes_by_label,
)

CLASSES = ("neutral", "anger", "happiness")
RATED: dict[str, object] = {
    "ratings": {"voice": {"Happy": 2, "joy": 1, " NEUTRAL": 4, "contempt": 5}, "face": {}}
}
VOTES = arrays.arrays(
    np.int64, st.tuples(st.integers(1, 6), st.integers(1, 7)), elements=st.integers(0, 12)
)


def test_votes_are_counted_by_class() -> None:
    """Labels mean what they mean everywhere, and those that are no class do not count."""
    assert count_votes(RATED, "voice", CLASSES).tolist() == [4, 0, 3]
    assert count_votes(RATED, "voice", ("contempt", "anger")).tolist() == [5, 0]
    assert count_votes(RATED, "voice", CLASSES).dtype == np.int64


def test_merged_labels_count_as_their_class() -> None:
    """Merging comes before the classes: votes for contempt become votes for anger."""
    merged = {"contempt": "anger", "neutral": "calm"}
    assert votes_by_label(RATED, "voice", merged) == {"happiness": 3, "calm": 4, "anger": 5}
    assert count_votes(RATED, "voice", CLASSES, merged).tolist() == [0, 5, 3]


@pytest.mark.parametrize("metadata", [{}, {"ratings": None}, {"ratings": {"voice": {}}}])
def test_an_utterance_without_ratings_has_no_votes(metadata: dict[str, Any]) -> None:
    """Nobody rated it: all counts are 0, and what is made of them is unknown."""
    votes = count_votes(metadata, "voice", CLASSES)[None]
    assert votes.tolist() == [[0, 0, 0]]
    assert np.isnan(distributions(votes)).all()
    assert np.isnan(multi_hot(votes)).all()


def test_an_unknown_stimulus_is_refused() -> None:
    """A misspelled stimulus is an error, and not an utterance that nobody rated."""
    with pytest.raises(ValueError, match="'audio', expected one of voice, face, audiovisual"):
        count_votes(RATED, "audio", CLASSES)


def test_shares_and_labels_by_hand() -> None:
    """Of 12 votes over six classes, 2 are exactly 1/6 and no label, and 3 are one."""
    votes = np.asarray([[3, 2, 2, 2, 2, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 9]])
    expected = [[0.25, 1 / 6, 1 / 6, 1 / 6, 1 / 6, 1 / 12], [1 / 6] * 6, [0, 0, 0, 0, 0, 1]]
    np.testing.assert_allclose(distributions(votes), expected, rtol=1e-6)
    assert multi_hot(votes).tolist() == [[1, 0, 0, 0, 0, 0], [0] * 6, [0, 0, 0, 0, 0, 1]]
    assert distributions(votes).dtype == multi_hot(votes).dtype == np.float32


@given(VOTES)
def test_labels_are_those_above_an_exact_share(votes: NDArray[np.int64]) -> None:
    """A class is a label where its share, as a fraction, is greater than 1/C."""
    labels = multi_hot(votes)
    for row, found in zip(votes.tolist(), labels, strict=True):
        if not sum(row):
            assert np.isnan(found).all()
            continue
        exact = [Fraction(number, sum(row)) > Fraction(1, len(row)) for number in row]
        assert found.tolist() == exact


@given(VOTES, st.integers(1, 1000), st.randoms())
def test_votes_count_by_their_shares(votes: NDArray[np.int64], factor: int, random: Any) -> None:
    """More raters with the same shares change nothing, and neither does the order of classes."""
    np.testing.assert_array_equal(multi_hot(votes * factor), multi_hot(votes))
    np.testing.assert_allclose(distributions(votes * factor), distributions(votes), rtol=1e-6)

    order = random.sample(range(votes.shape[1]), votes.shape[1])
    np.testing.assert_array_equal(multi_hot(votes[:, order]), multi_hot(votes)[:, order])
    np.testing.assert_array_equal(distributions(votes[:, order]), distributions(votes)[:, order])


@given(VOTES)
def test_distributions_sum_to_one(votes: NDArray[np.int64]) -> None:
    """Shares sum to 1, and are unknown exactly where there are no votes."""
    shares = distributions(votes)
    rated = votes.sum(axis=1) > 0
    np.testing.assert_allclose(shares[rated].sum(axis=1), 1, rtol=1e-6)
    assert np.isnan(shares[~rated]).all()


def test_class_weights_by_hand() -> None:
    """With beta .5, one utterance weighs .5 / .5 = 1 and two weigh .5 / .75 = 2/3, scaled to C."""
    labels = np.asarray([[1, 0], [0, 1], [0, 1], [np.nan, np.nan]], np.float32)
    expected = np.asarray([1, 2 / 3]) * 2 / (1 + 2 / 3)
    np.testing.assert_allclose(class_weights(labels, ("a", "b"), 0.5), expected)
    # By default beta is (N - 1) / N over the three rated utterances.
    np.testing.assert_allclose(
        class_weights(labels, ("a", "b")), class_weights(labels, "ab", 2 / 3)
    )


def test_class_weights_of_published_counts() -> None:
    """CREMA-D's counts of labels from both stimuli give the weights that were computed of them."""
    counts = [1658, 1695, 2348, 2257, 3291, 1340]
    labels = np.stack([np.arange(7442) < count for count in counts], axis=1).astype(np.float32)
    published = [1.1422, 1.1200, 0.8431, 0.8720, 0.6383, 1.3844]
    original = [1.1474, 1.1244, 0.8377, 0.8676, 0.6251, 1.3978]
    np.testing.assert_allclose(class_weights(labels, "ASDFNH"), published, atol=1.1e-4)
    np.testing.assert_allclose(class_weights(labels, "ASDFNH", 0.9999), original, atol=1.1e-4)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6))
def test_class_weights_are_larger_for_rarer_classes(counts: list[int]) -> None:
    """They sum to the number of classes, and a rarer class never weighs less."""
    labels = np.stack([np.arange(50) < count for count in counts], axis=1).astype(np.float32)
    weights = class_weights(labels, [str(place) for place in range(len(counts))])
    assert weights.sum() == pytest.approx(len(counts))
    assert (np.diff(weights[np.argsort(counts)]) <= 1e-12).all()


def test_a_class_without_utterances_has_no_weight() -> None:
    """Its weight would be infinite; the error names the class and what to do."""
    labels = np.asarray([[1, 0], [1, 0]], np.float32)
    with pytest.raises(ConfigError, match=r"ratings: fear has more than 1/2 .* none of 2 rated"):
        class_weights(labels, ("anger", "fear"))
