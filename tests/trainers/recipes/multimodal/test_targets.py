"""Targets are standardized by the training utterances alone."""

import numpy as np
import pytest
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.objectives import Objective
from trainers.recipes.multimodal.config import MultimodalConfig
from trainers.recipes.multimodal.targets import digest, make_blocks

IS_TRAINING = np.array([True, True, True, False])
NAN = np.nan


def objective(
    name: str, rows: list[list[float]], values: tuple[str, ...] | None = None
) -> Objective:
    array = np.array(rows, dtype=np.float32)
    names = values or tuple(f"value{place}" for place in range(array.shape[1]))
    return Objective(name=name, values=names, array=array)


def blocks(found: Objective, **options: str) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    made = make_blocks({found.name: found}, MultimodalConfig(**options), IS_TRAINING)  # type: ignore[arg-type]
    return made[found.name].array, made[found.name].values


def test_statistics_are_those_of_known_training_values() -> None:
    """Mean 2, spread 1 of the values 1 and 3: 5 becomes 3, and the unknown value stays unknown."""
    array, _ = blocks(objective("acoustics", [[1.0], [3.0], [NAN], [5.0]]))
    np.testing.assert_allclose(array[:, 0], [-1.0, 1.0, NAN, 3.0])


def test_a_held_out_utterance_changes_no_target_of_another() -> None:
    """What is measured of the last utterance, which is held out, moves only its own target."""
    one, _ = blocks(objective("acoustics", [[1.0], [3.0], [4.0], [5.0]]))
    other, _ = blocks(objective("acoustics", [[1.0], [3.0], [4.0], [500.0]]))
    np.testing.assert_array_equal(one[IS_TRAINING], other[IS_TRAINING])


def test_a_constant_value_is_left_out_by_name(caplog: pytest.LogCaptureFixture) -> None:
    """It tells nothing; where every value is constant, the objective is refused."""
    rows = [[1.0, 7.0], [3.0, 7.0], [2.0, 7.0], [2.0, 8.0]]
    array, names = blocks(objective("acoustics", rows, ("pitch", "hum")))

    assert (names, array.shape) == (("pitch",), (4, 1))
    assert "same for all training utterances: hum" in caplog.text
    with pytest.raises(ConfigError, match="every value of acoustics is the same"):
        blocks(objective("acoustics", [[7.0], [7.0], [7.0], [8.0]]))


def test_what_nobody_has_is_kept_and_unknown() -> None:
    """A modality that no utterance has is no error: its head is there, and learns nothing."""
    array, names = blocks(objective("face_embedding", [[NAN, NAN]] * 4))
    assert len(names) == 2
    assert np.isnan(array).all()


def test_sentiment_is_the_likeliest_one_or_the_distribution() -> None:
    """Of equals the first is taken; an utterance without words has none."""
    found = objective("sentiment", [[0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [NAN] * 3, [0.9, 0.1, 0.0]])

    one_hot, _ = blocks(found)
    np.testing.assert_array_equal(one_hot, [[0, 0, 1], [1, 0, 0], [NAN] * 3, [1, 0, 0]])
    np.testing.assert_array_equal(blocks(found, sentiment="distribution")[0], found.array)


def test_energy_is_whether_the_level_is_above_the_training_median() -> None:
    """Of the levels -30, -20 and -10 the median is -20; the held-out level does not move it."""
    levels = objective(
        "acoustics", [[0, -30], [0, -20], [0, -10], [0, -15]], ("pitch_semitones", "level_db")
    )
    array, _ = blocks(levels, acoustics="energy")

    np.testing.assert_array_equal(array[:, 0], [0, 0, 1, 1])
    with pytest.raises(ConfigError, match="none of level_db, Loudness_sma3"):
        blocks(objective("acoustics", [[1.0]] * 4), acoustics="energy")


def test_the_digest_changes_with_any_target() -> None:
    """A run is not resumed with other targets."""
    rows = [[1.0], [3.0], [4.0], [5.0]]
    digests = {
        digest(make_blocks({"acoustics": found}, MultimodalConfig(), IS_TRAINING))
        for found in (
            objective("acoustics", rows),
            objective("acoustics", [*rows[:3], [5.5]]),
            objective("acoustics", rows, ("pitch",)),
        )
    }
    assert len(digests) == 3
