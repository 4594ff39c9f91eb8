"""Look-up of speakers and calibration, computed by hand, and where nothing can be divided."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.speakers.pldc import calibrate, calibrate_speakers
from shards.speakers.statistics import build_speakers
from shards.speakers.table import SpeakerTable, nearest


def table() -> SpeakerTable:
    speakers = np.asarray(["b", "a", "a", "c"], dtype=object)
    features = np.asarray([[0, 2], [1, 0], [3, 0], [1, 1]], dtype=np.float32)
    labels = np.asarray([[5.0], [1.0], [3.0], [4.0]])
    return build_speakers(lambda: [(speakers, features, labels)], ["arousal"])


def test_the_table_is_means_over_utterances() -> None:
    """Vectors are mean features, statistics are those of the labels, and speakers are sorted."""
    found = table()
    assert list(found.speakers) == ["a", "b", "c"]
    np.testing.assert_allclose(found.vectors, [[2, 0], [0, 2], [1, 1]])
    np.testing.assert_allclose(found.label_mean[:, 0], [2, 5, 4])
    np.testing.assert_allclose(found.label_std[:, 0], [1, 0, 0])
    assert found.num_utterances.tolist() == [2, 1, 1]


def test_the_most_alike_come_first() -> None:
    """(1, 0.1) is nearest to a, then c, then b; a k beyond the table takes all of it."""
    places, similarity = table().nearest(np.asarray([[1, 0.1]], dtype=np.float32), 10)
    assert places.tolist() == [[0, 2, 1]]
    np.testing.assert_allclose(similarity[0, 0], 1 / np.sqrt(1.01), rtol=1e-6)

    with pytest.raises(ConfigError, match="neighbors: got 0"):
        table().nearest(np.ones((1, 2), dtype=np.float32), 0)
    with pytest.raises(ConfigError, match="not finite"):
        table().nearest(np.full((1, 2), np.nan, dtype=np.float32), 1)


def test_equation_3_by_hand() -> None:
    """Predictions 1, 2, 3 get mean 5 and twice their spread, or either."""
    predicted, mean, std = (
        np.asarray([[1.0], [2.0], [3.0]]),
        np.asarray([5.0]),
        np.asarray([2 * np.sqrt(2 / 3)]),
    )
    np.testing.assert_allclose(calibrate(predicted, mean, std, "both")[:, 0], [3, 5, 7])
    np.testing.assert_allclose(calibrate(predicted, mean, std, "mu")[:, 0], [4, 5, 6])
    np.testing.assert_allclose(calibrate(predicted, mean, std, "sigma")[:, 0], [0, 2, 4])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.floats(-3, 3), st.floats(0.1, 3))
def test_calibrated_predictions_have_the_wanted_statistics(
    values: list[float], mean: float, std: float
) -> None:
    """Mode both gives exactly this mean, and this spread unless the predictions have none."""
    predicted = np.asarray(values)[:, None]
    found = calibrate(predicted, np.asarray([mean]), np.asarray([std]), "both")
    assert np.isfinite(found).all()
    assert found.mean() == pytest.approx(mean, abs=1e-6)
    if predicted.std() > 1e-6:
        assert found.std() == pytest.approx(std, rel=1e-4)


@pytest.mark.parametrize("mode", ["mu", "sigma", "both"])
def test_predictions_without_spread_are_only_moved(mode: str) -> None:
    """Predictions of one utterance, or equal ones, are moved without a division by zero."""
    for number, value in ((1, 3.0), (4, 3.0), (3, 1.454701936799085)):  # whose mean rounds
        found = calibrate(np.full((number, 1), value), np.asarray([5.0]), np.asarray([2.0]), mode)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, np.full((number, 1), value if mode == "sigma" else 5.0))


def test_each_speaker_is_calibrated_by_its_own_neighbors() -> None:
    """Features near a speaker give this speaker's labels; for k = 2, the average of two."""
    speakers = np.asarray(["x", "x", "y"], dtype=object)
    features = np.asarray([[1, 0], [2, 0.1], [0, 1]], dtype=np.float32)
    predictions = np.asarray([[0.0], [1.0], [0.0]])

    nearest = calibrate_speakers(table(), speakers, features, predictions, neighbors=1, mode="mu")
    np.testing.assert_allclose(nearest[:, 0], [1.5, 2.5, 5.0])

    two = calibrate_speakers(table(), speakers, features, predictions, neighbors=2, mode="mu")
    np.testing.assert_allclose(two[:, 0], [2.5, 3.5, 4.5])


def test_statistics_are_averaged_and_features_too() -> None:
    """Two neighbors with spreads 1 and 3 give the spread 2.

    All features of a speaker decide who is near.
    """
    speakers = np.asarray(["a", "a", "b", "b", "c"], dtype=object)
    features = np.asarray([[1, 0], [1, 0], [1, 0.1], [1, 0.1], [0, 1]], dtype=np.float32)
    labels = np.asarray([[1.0], [3.0], [1.0], [7.0], [9.0]])
    table = build_speakers(lambda: [(speakers, features, labels)], ["arousal"])

    mine, predictions = np.asarray(["x"] * 2, dtype=object), np.asarray([[0.0], [1.0]])
    seen = np.asarray([[0, 1], [9, 0]], dtype=np.float32)
    found = calibrate_speakers(table, mine, seen, predictions, neighbors=2, mode="both")
    np.testing.assert_allclose(found[:, 0], [3 - 2, 3 + 2])


def test_equally_alike_speakers_keep_their_order() -> None:
    """Speakers with the same cosine keep their order, whatever their length.

    The neighbors in a table therefore do not depend on the sorting.
    """
    vectors = np.asarray([[0, 1], [1, 0], [2, 0], [3, 0]], dtype=np.float32)
    places, _ = nearest(vectors, np.asarray([[1, 0]], dtype=np.float32), 2)
    assert places.tolist() == [[1, 2]]
