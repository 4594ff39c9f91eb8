"""The labels of an utterance come from its json."""

import math

import pytest

from shards.samples.metadata import number
from shards.speakers.labels import label_row


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.5, 0.5),
        (3, 3.0),
        ("0.055", 0.055),
        (" -1e2 ", -100.0),
        (True, math.nan),
        ("high", math.nan),
        (None, math.nan),
    ],
)
def test_numbers_may_be_written_as_text(value: object, expected: float) -> None:
    """A number may be text, as the cells of a CSV are; what is no number is unknown."""
    assert number(value) == pytest.approx(expected, nan_ok=True)


def test_values_are_taken_from_nested_json() -> None:
    """Dotted names find nested values, whether they are numbers or text."""
    assert label_row(
        {"arousal": "0.1", "ratings": {"valence": 0.2}}, ["arousal", "ratings.valence"]
    ) == [0.1, 0.2]
