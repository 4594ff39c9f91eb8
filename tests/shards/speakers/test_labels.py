"""Labels of an utterance, from its json."""

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
    """A CSV's cells reach the json as text; what is no number is not known."""
    assert number(value) == pytest.approx(expected, nan_ok=True)


def test_values_are_taken_from_nested_json() -> None:
    """By dotted names, as numbers or as text."""
    assert label_row(
        {"arousal": "0.1", "ratings": {"valence": 0.2}}, ["arousal", "ratings.valence"]
    ) == [0.1, 0.2]
