"""The label quality of a summary: each way of labeling is scored on the labels it would give."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from shards.emotions import EMOTIONS
from shards.selection.label_quality import Evaluation
from shards.selection.rule import SelectConfig, choose
from tests.shards.selection.inputs import draw_candidates, permuted

CLASSES = [EMOTIONS.index(name) for name in ("neutral", "anger", "happiness", "surprise")]
CANDIDATES = draw_candidates(0, num=2000, num_speakers=30)


def configure(**options: Any) -> SelectConfig:
    settings = {
        "predictions": "in",
        "out": "out",
        "teachers": ("text", "vision"),
        "min_per_speaker": 5,
    }
    return SelectConfig(**(settings | options))


def evaluate(candidates: Any = CANDIDATES, **options: Any) -> Evaluation:
    config = configure(**options)
    return Evaluation(candidates, choose(candidates, config), config)


def quality_of(evaluation: Evaluation) -> dict[str, Any]:
    quality = evaluation.quality()
    assert quality is not None
    return quality


def check(found: dict[str, Any], label: np.ndarray[Any, Any]) -> None:
    """`found` are scikit-learn's scores of `label` (-1 for none)."""
    rows = (CANDIDATES.truth >= 0) & np.isin(label, CLASSES)
    truth = CANDIDATES.truth[rows]
    assert found["n"] == rows.sum()
    assert found["accuracy"]["value"] == pytest.approx(accuracy_score(truth, label[rows]), abs=1e-6)
    expected = f1_score(truth, label[rows], labels=CLASSES, average="macro")
    assert found["macro_f1"]["value"] == pytest.approx(expected, abs=1e-6)


def test_teachers_are_scored_on_the_labels_they_would_give() -> None:
    """A teacher alone is scored wherever it names a wanted class, whatever the truth there."""
    quality = quality_of(evaluate())
    for name in ("text", "vision"):
        probs = CANDIDATES.teachers[name]
        missing = np.isnan(probs).any(axis=1)
        check(quality["teachers"][name], np.where(missing, -1, np.nan_to_num(probs).argmax(axis=1)))


def test_combined_and_kept_labels() -> None:
    """The average of both is scored without a filter, the kept set as it is kept."""
    quality = quality_of(evaluate())
    selection = choose(CANDIDATES, configure())
    check(quality["combined"], selection.label)
    check(quality["kept"], np.where(selection.kept, selection.label, -1))
    assert quality["num_with_truth"] == (CANDIDATES.truth >= 0).sum()
    assert sum(map(sum, quality["confusion"]["matrix"])) == quality["kept"]["n"]


def test_kept_is_compared_with_the_best_teacher() -> None:
    """The difference is that of the two accuracies.

    On these candidates, agreement improves on the better teacher.
    """
    quality = quality_of(evaluate(threshold=0.3))
    values = {name: scores["accuracy"]["value"] for name, scores in quality["teachers"].items()}
    comparison = quality["kept_vs_best_teacher"]
    assert comparison["best_teacher"] == max(values, key=lambda name: values[name])

    difference = quality["kept"]["accuracy"]["value"] - max(values.values())
    assert comparison["difference"]["value"] == pytest.approx(difference, abs=1e-5)
    assert comparison["difference"]["low"] > 0


def test_one_teacher_alone_gains_nothing_by_agreement() -> None:
    """The kept set of one teacher, with all classes and no minimum, is what the teacher labels."""
    candidates = dataclasses.replace(CANDIDATES, speaker=np.maximum(CANDIDATES.speaker, 0))
    evaluation = evaluate(candidates, teachers=("text",), min_per_speaker=0, classes=EMOTIONS)
    quality = quality_of(evaluation)
    assert quality["kept"] == quality["combined"] == quality["teachers"]["text"]
    assert quality["kept_vs_best_teacher"]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert evaluation.retention() == []


def test_only_classes_that_occur_are_averaged() -> None:
    """A corpus without surprise, such as CREMA-D, is not marked down for it."""
    truth = np.where(CANDIDATES.truth == EMOTIONS.index("surprise"), -1, CANDIDATES.truth)
    assert quality_of(evaluate(dataclasses.replace(CANDIDATES, truth=truth)))["classes"] == [
        "neutral",
        "anger",
        "happiness",
    ]


def test_retention_is_what_selecting_at_each_threshold_keeps() -> None:
    """Each point of the curve equals a selection with that threshold, no minimum and no balance."""
    candidates = dataclasses.replace(CANDIDATES, speaker=np.maximum(CANDIDATES.speaker, 0))
    points = evaluate(candidates).retention()
    for point in points[::4]:
        config = configure(threshold=point["threshold"], min_per_speaker=0)
        again = Evaluation(candidates, choose(candidates, config), config)
        assert point["kept"] == choose(candidates, config).kept.sum()
        assert point["share"] == pytest.approx(point["kept"] / len(candidates), abs=1e-6)
        assert point["accuracy"]["value"] == quality_of(again)["kept"]["accuracy"]["value"]


@pytest.mark.parametrize("distance", ["kl", "js"])
def test_retention_rises_to_everything(distance: str) -> None:
    """Thresholds rise, are above 0, and include the one in force.

    The last threshold keeps every wanted label there is.
    """
    points = evaluate(distance=distance, threshold=0.123).retention()
    thresholds, kept = [point["threshold"] for point in points], [point["kept"] for point in points]

    assert thresholds == sorted(set(thresholds))
    assert thresholds[0] > 0
    assert 0.123 in thresholds
    assert 20 <= len(points) <= 30
    assert kept == sorted(kept)

    selection = choose(CANDIDATES, configure(distance=distance))
    finite = np.isfinite(selection.distance) & (selection.distance <= thresholds[-1])
    assert kept[-1] == (finite & np.isin(selection.label, CLASSES)).sum()


def test_without_truth_there_is_retention_and_no_quality() -> None:
    """A corpus without any wanted true emotion has counts and no scores.

    Nobody has labeled it, or only with other emotions.
    """
    for truth in (-1, EMOTIONS.index("sadness")):
        blind = dataclasses.replace(CANDIDATES, truth=np.full(len(CANDIDATES), truth))
        evaluation = evaluate(blind)
        assert evaluation.quality() is None
        assert all(
            point["accuracy"] is None and point["macro_f1"] is None
            for point in evaluation.retention()
        )


def test_nothing_to_evaluate() -> None:
    """Where there is no utterance, there is no quality, and the curve keeps nothing."""
    evaluation = evaluate(permuted(CANDIDATES, np.empty(0, dtype=np.int64)))
    assert evaluation.quality() is None
    assert all(point["kept"] == 0 and point["share"] == 0 for point in evaluation.retention())
