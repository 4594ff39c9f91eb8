"""Accuracy, macro-F1 and their intervals, against scikit-learn and against a plain bootstrap."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

from shards import resampling
from shards.selection.scores import Scorer, accuracy, macro_f1

CLASSES = (0, 1, 4, 6)


@dataclasses.dataclass(frozen=True, slots=True)
class Labeled:
    """Utterances with a truth, a speaker and a label that is right more often for some speakers."""

    truth: NDArray[np.int64]
    label: NDArray[np.int64]
    speaker: NDArray[np.int64]


def draw(seed: int = 0, num: int = 600, num_speakers: int = 20, spread: float = 0.3) -> Labeled:
    generator = np.random.default_rng(seed)
    speaker = generator.integers(0, num_speakers, num)
    skill = np.clip(0.6 + spread * generator.standard_normal(num_speakers), 0, 1)
    truth = generator.integers(0, 7, num)
    label = np.where(generator.random(num) < skill[speaker], truth, generator.integers(0, 7, num))
    return Labeled(truth, np.where(np.isin(label, CLASSES), label, -1), speaker)


def scores(data: Labeled) -> Mapping[str, Mapping[str, float]]:
    scorer = Scorer(data.truth, data.speaker, CLASSES, seed=0)
    found: Mapping[str, Mapping[str, float]] = scorer.scores(scorer.confusion(data.label))
    return found


def test_metrics_agree_with_scikit_learn() -> None:
    """Accuracy and macro-F1 over the wanted classes are those of scikit-learn.

    Truths outside these classes count as errors.
    """
    data = draw()
    rows = data.label >= 0

    found = scores(data)
    assert found["n"] == rows.sum()
    assert found["accuracy"]["value"] == pytest.approx(
        accuracy_score(data.truth[rows], data.label[rows]), abs=1e-6
    )

    expected = f1_score(
        data.truth[rows], data.label[rows], labels=CLASSES, average="macro", zero_division=0
    )
    assert found["macro_f1"]["value"] == pytest.approx(expected, abs=1e-6)


def test_a_class_nobody_names_counts_nothing() -> None:
    """A class that is neither truth nor label counts 0 in the average, as in scikit-learn."""
    matrix = np.zeros((7, 7))
    matrix[0, 0], matrix[1, 0] = 3, 1
    assert macro_f1(matrix, [0, 1, 6]) == pytest.approx((2 * 3 / (3 + 4) + 0 + 0) / 3)


def test_confusions_add_up_over_groups() -> None:
    """The groups' matrices sum to scikit-learn's confusion matrix."""
    data = draw()
    rows = data.label >= 0
    confusion = Scorer(data.truth, data.speaker, CLASSES, seed=0).confusion(data.label)
    expected = confusion_matrix(data.truth[rows], data.label[rows], labels=range(7))
    np.testing.assert_array_equal(confusion.sum(axis=0), expected)


def test_nested_sets_are_the_sets_one_by_one() -> None:
    """The confusion of each nested set equals that of the set alone."""
    data = draw()
    level = np.random.default_rng(1).integers(0, 5, len(data.truth))
    scorer = Scorer(data.truth, data.speaker, CLASSES, seed=0)
    nested = scorer.nested_confusions(data.label, level, 4)
    for number, confusion in enumerate(nested):
        np.testing.assert_array_equal(
            confusion, scorer.confusion(np.where(level <= number, data.label, -1))
        )


def test_intervals_agree_with_a_plain_cluster_bootstrap() -> None:
    """The interval equals that of a plain bootstrap over speakers.

    The bootstrap draws whole speakers with replacement and scores their utterances again.
    """
    data = draw()

    generator = np.random.default_rng(5)
    utterances = [
        np.flatnonzero((data.speaker == number) & (data.label >= 0)) for number in range(20)
    ]
    resampled = []
    for _ in range(2000):
        rows = np.concatenate([utterances[number] for number in generator.integers(0, 20, 20)])
        resampled.append(accuracy_score(data.truth[rows], data.label[rows]))

    found = scores(data)["accuracy"]
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.02)
    assert found["high"] == pytest.approx(high, abs=0.02)
    assert found["low"] < found["value"] < found["high"]


def test_speakers_that_differ_widen_the_interval() -> None:
    """The interval over speakers is wider than one over utterances alone.

    The utterances of one speaker are not independent.
    """
    data = draw(spread=0.4)
    clustered = scores(data)["accuracy"]
    alone = scores(dataclasses.replace(data, speaker=np.full(len(data.truth), -1)))["accuracy"]
    assert clustered["high"] - clustered["low"] > 2 * (alone["high"] - alone["low"])


def test_utterances_without_a_speaker_stand_for_themselves() -> None:
    """Without speakers, the interval is the binomial one and not that of a single speaker."""
    data = draw(num=1000, spread=0.0)
    found = scores(dataclasses.replace(data, speaker=np.full(1000, -1)))["accuracy"]
    rows = data.label >= 0
    error = np.sqrt(found["value"] * (1 - found["value"]) / rows.sum())
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_one_speaker_has_no_interval() -> None:
    """One speaker says nothing about others, so the interval is unknown rather than empty."""
    data = draw()
    found = scores(dataclasses.replace(data, speaker=np.zeros(len(data.truth), dtype=np.int64)))[
        "accuracy"
    ]
    assert found["value"] > 0
    assert np.isnan(found["low"])
    assert np.isnan(found["high"])


def test_no_labels_have_no_score() -> None:
    """An empty set of labels has neither a value nor an interval."""
    data = draw()
    found = scores(dataclasses.replace(data, label=np.full(len(data.truth), -1)))
    assert found["n"] == 0
    assert np.isnan(found["accuracy"]["value"])
    assert np.isnan(found["macro_f1"]["low"])


def test_differences_are_paired() -> None:
    """Two nearly equal label sets have a difference with a far narrower interval than their own."""
    data = draw()
    scorer = Scorer(data.truth, data.speaker, CLASSES, seed=0)

    better = data.label.copy()
    better[
        np.flatnonzero((better >= 0) & (better != data.truth) & np.isin(data.truth, CLASSES))[:5]
    ] = -1

    first, second = scorer.confusion(better), scorer.confusion(data.label)
    found, own = scorer.difference(first, second), scorer.scores(second)["accuracy"]

    assert found["value"] == pytest.approx(
        float(accuracy(first.sum(axis=0)) - accuracy(second.sum(axis=0))), abs=1e-6
    )
    assert found["high"] - found["low"] < (own["high"] - own["low"]) / 3
    assert scorer.difference(first, first) == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_many_speakers_are_pooled_without_changing_the_interval(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Above a limit, speakers are pooled at random: memory is bounded, the interval stays."""
    data = draw(num=8000, num_speakers=400)
    whole = scores(data)["accuracy"]
    monkeypatch.setattr(resampling, "MAX_GROUPS", 100)
    pooled = scores(data)["accuracy"]
    assert pooled["value"] == whole["value"]
    assert pooled["high"] - pooled["low"] == pytest.approx(whole["high"] - whole["low"], rel=0.25)
