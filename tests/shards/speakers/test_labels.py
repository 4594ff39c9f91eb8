"""The labels of an utterance come from its json."""

import math

import pytest

from shards.emotions import EMOTIONS
from shards.samples.metadata import number
from shards.speakers.labels import label_dimensions, label_row, stated_class


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
        {"arousal": "0.1", "ratings": {"valence": 0.2}}, ["arousal", "ratings.valence"], []
    ) == [0.1, 0.2]


def test_a_label_counts_before_the_emotion_and_whole_numbers_name_classes() -> None:
    """The class of an utterance is what training learns: its label, else its emotion."""
    assert stated_class({"label": "Happy", "emotion": "sadness"}) == "happiness"
    assert stated_class({"emotion": " Boredom "}) == "boredom"
    assert stated_class({"label": 2}) == "2"
    assert stated_class({"label": True, "emotion": 3}) is None


def test_a_corpus_with_other_classes_has_its_own_dimensions() -> None:
    """Seven dimensions as long as every class is one of the seven, else those of the corpus."""
    assert label_dimensions(["emotion"], {"anger", "sadness"}) == EMOTIONS
    dimensions = label_dimensions(["emotion"], {"boredom", "sadness", "anger"})

    assert dimensions == ("anger", "sadness", "boredom")
    assert label_row({"emotion": "boredom"}, ["emotion"], dimensions) == [0.0, 0.0, 1.0]
    assert label_row({}, ["emotion"], dimensions) == pytest.approx([math.nan] * 3, nan_ok=True)
