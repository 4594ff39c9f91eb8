"""Figures class by class with two intervals each, as wide as published ones."""

import json

import numpy as np
import pytest

from shards.loading.targets import Targets
from trainers.evaluation.multilabel.document import one_vs_rest_document
from trainers.evaluation.multilabel.one_vs_rest import OneVsRest
from trainers.evaluation.multilabel.units import Units
from trainers.evaluation.targets import TARGETS

# Of how many of CREMA-D's 7,442 clips each of six emotions is true, by all audio-visual votes.
TRUE_OF = np.asarray([1658, 1695, 2348, 2257, 3291, 1340])
NUM_CLIPS, NUM_ACTORS = 7442, 91


def simulated(f1: float, seed: int = 0) -> OneVsRest:
    """Answers to CREMA-D's clips with this F1, precision and recall of every emotion."""
    rng = np.random.default_rng(seed)
    share = TRUE_OF / NUM_CLIPS
    truth = rng.random((NUM_CLIPS, 6)) < share
    wrongly = (1 - f1) * share / (1 - share)
    chosen = rng.random((NUM_CLIPS, 6)) < np.where(truth, f1, wrongly)
    probs = np.where(chosen, 0.3, 0.1).astype(np.float32)
    return OneVsRest(
        names=[f"c{n}" for n in range(6)], rule="", probs_NC=probs, chosen_NC=chosen, truth_NC=truth
    )


def test_an_interval_by_utterance_is_as_wide_as_a_published_one() -> None:
    """At a macro-F1 of .77 the paper prints .0055 to either side (two-stage-aver, Table 1)."""
    answers = simulated(0.77)
    speakers = np.arange(NUM_CLIPS) % NUM_ACTORS
    units = Units(np.asarray(speakers, dtype=object), 0)
    found = one_vs_rest_document(answers, units, f1_over="present")
    macro = found["overall"]["macro_f1"]
    low, high = macro["by_utterance"]
    assert macro["value"] == pytest.approx(0.77, abs=0.01)
    assert (high - low) / 2 == pytest.approx(0.0055, abs=0.0008)
    # Actors are alike in this simulation, so other actors differ no more than other clips.
    low, high = macro["by_speaker"]
    assert (high - low) / 2 == pytest.approx(0.0055, abs=0.0016)


def test_classes_are_judged_by_the_likeliest_one() -> None:
    """A target of classes has one answer an utterance; the mean of its F1 is its macro-F1."""
    rng = np.random.default_rng(0)
    target = TARGETS["classes"](["x", "y", "z"])
    labels = rng.integers(3, size=60)
    truth = Targets("classes", target.names, np.eye(3, dtype=np.float32)[labels])
    probs = rng.dirichlet([1, 1, 1], size=60).astype(np.float32)
    speakers = np.asarray([f"s{n % 6}" for n in range(60)], dtype=object)

    answers = target.one_vs_rest(truth, probs)
    assert answers is not None
    assert answers.rule == "the likeliest class"
    assert (answers.chosen_NC.sum(axis=1) == 1).all()
    found = one_vs_rest_document(answers, Units(speakers, 0), f1_over="present")
    score = target.score(truth, probs, speakers)
    for name in ("macro_f1", "weighted_f1"):
        assert found["overall"][name]["value"] == pytest.approx(getattr(score, name), abs=1e-6)
    assert [found["emotions"][name]["number"] for name in "xyz"] == np.bincount(labels).tolist()
    one_hot = np.eye(3)[labels]
    brier = np.square(probs - one_hot).mean()
    assert found["overall"]["brier_score"]["value"] == pytest.approx(brier, abs=1e-6)

    # Intervals over speakers are those of the figures themselves.
    intervals = target.intervals(score, truth, probs, speakers, seed=0)
    assert found["overall"]["macro_f1"]["by_speaker"] == intervals["macro_f1"]


def test_a_document_has_nothing_that_json_has_not() -> None:
    """One utterance of one speaker: intervals are null, and no NaN is written."""
    answers = simulated(0.77).take(np.asarray([0]))
    units = Units(np.asarray(["s"], dtype=object), 0)
    found = one_vs_rest_document(answers, units, f1_over="present")
    assert "NaN" not in json.dumps(found)
    assert found["overall"]["brier_score"]["by_speaker"] == [None, None]
    assert sum(point["number"] for point in found["reliability"]["all"]) == 6
