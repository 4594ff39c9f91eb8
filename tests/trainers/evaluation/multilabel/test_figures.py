"""Figures of several labels at once equal those of scikit-learn and torchmetrics, or by hand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, f1_score
from torchmetrics.functional.classification import binary_calibration_error

from trainers.evaluation.multilabel.figures import (
    emotion_figures,
    macro_f1,
    overall_figures,
    reliability,
)
from trainers.evaluation.multilabel.one_vs_rest import (
    NUM_BINS,
    OneVsRest,
    above_threshold,
    count_bins,
    count_sums,
)


def answers_of(seed: int, number: int = 40, num_classes: int = 4) -> OneVsRest:
    """Random answers, whose last class can be absent from truth and predictions."""
    rng = np.random.default_rng(seed)
    concentration = np.where(np.arange(num_classes) < num_classes - seed % 2, 0.7, 1e-3)
    probs = rng.dirichlet(concentration, number).astype(np.float32)
    truth = rng.random((number, num_classes)) < np.where(concentration < 0.1, 0, 0.4)
    return OneVsRest(
        names=[f"c{n}" for n in range(num_classes)],
        rule="above 1/4",
        probs_NC=probs,
        chosen_NC=above_threshold(probs),
        truth_NC=truth,
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40))
def test_f1_and_brier_score_are_those_of_scikit_learn(seed: int, number: int) -> None:
    """Whichever classes are absent; the mean over the present ones leaves the absent out."""
    answers = answers_of(seed, number)
    sums, bins = count_sums(answers), count_bins(answers)
    truth, chosen = answers.truth_NC.astype(int), answers.chosen_NC.astype(int)

    found = overall_figures(sums, bins, f1_over="classes")
    for name, average in (("macro_f1", "macro"), ("weighted_f1", "weighted")):
        wanted = f1_score(truth, chosen, average=average, zero_division=0.0)
        assert found[name] == pytest.approx(wanted)
    each = f1_score(truth, chosen, average=None, zero_division=0.0)
    np.testing.assert_allclose(emotion_figures(sums, bins)["f1"], each)

    present = np.flatnonzero(truth.any(axis=0) | chosen.any(axis=0))
    wanted = each[present].mean() if len(present) else 0.0
    assert overall_figures(sums, bins)["macro_f1"] == pytest.approx(wanted)

    briers = [
        brier_score_loss(truth[:, place], answers.probs_NC[:, place], pos_label=1)
        for place in range(4)
    ]
    np.testing.assert_allclose(emotion_figures(sums, bins)["brier_score"], briers, atol=1e-6)
    assert found["brier_score"] == pytest.approx(np.mean(briers))


@pytest.mark.parametrize("seed", range(4))
def test_the_calibration_error_is_that_of_torchmetrics(seed: int) -> None:
    """Each class against the rest, over 15 bins of equal width, then the mean over classes."""
    answers = answers_of(seed, 200)
    sums, bins = count_sums(answers), count_bins(answers)
    wanted = [
        float(
            binary_calibration_error(
                torch.from_numpy(answers.probs_NC[:, place]),
                torch.from_numpy(answers.truth_NC[:, place].astype(int)),
                n_bins=NUM_BINS,
            )
        )
        for place in range(4)
    ]
    found = emotion_figures(sums, bins)["calibration_error"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert overall_figures(sums, bins)["calibration_error"] == pytest.approx(np.mean(wanted))


def test_a_reliability_diagram_by_hand() -> None:
    """Probabilities 0, .5, .52 and 1: the last bin takes its upper end, and .5 lies in bin 7."""
    probs = np.asarray([[0.0], [0.5], [0.52], [1.0]], dtype=np.float32)
    truth = np.asarray([[False], [True], [False], [True]])
    answers = OneVsRest(names=["x"], rule="", probs_NC=probs, chosen_NC=probs > 0.5, truth_NC=truth)
    bins = count_bins(answers)
    assert np.flatnonzero(bins[0, :, 0]).tolist() == [0, 7, 14]
    assert reliability(bins[0]) == [
        {"number": 1, "probability": 0.0, "true": 0.0},
        {"number": 2, "probability": 0.51, "true": 0.5},
        {"number": 1, "probability": 1.0, "true": 1.0},
    ]


def test_a_probability_on_the_threshold_is_not_above_it() -> None:
    """Six equal probabilities choose nothing, in float32 and float64, and a little more does."""
    for kind in (np.float32, np.float64):
        equal = np.full((1, 6), 1 / 6, dtype=kind)
        assert not above_threshold(equal).any()
        assert above_threshold(np.nextafter(equal, kind(1))).all()
    assert not above_threshold(torch.zeros(1, 6).softmax(dim=1).numpy()).any()


def test_empty_answers_have_no_figures() -> None:
    """Without utterances figures are NaN; with neither truth nor answers F1 is 0, not NaN."""
    answers = answers_of(0)
    nobody = answers.take(np.asarray([], dtype=np.int64))
    found = overall_figures(count_sums(nobody), count_bins(nobody))
    assert all(np.isnan(value) for value in found.values())

    silent = OneVsRest(
        names=answers.names,
        rule="",
        probs_NC=answers.probs_NC,
        chosen_NC=np.zeros_like(answers.chosen_NC),
        truth_NC=np.zeros_like(answers.truth_NC),
    )
    found = overall_figures(count_sums(silent), count_bins(silent))
    assert (found["macro_f1"], found["weighted_f1"]) == (0.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert f1_score(silent.truth_NC, silent.chosen_NC, average="macro") == 0.0


def test_sums_add_up_over_any_axes() -> None:
    """Sums by speaker and group give the figures of each, and add up to the whole."""
    answers, rng = answers_of(3, 60), np.random.default_rng(1)
    speaker, group = rng.integers(5, size=60), rng.integers(2, size=60)
    sums = count_sums(answers, (speaker, 5), (group, 2))
    assert sums.shape == (5, 2, 4, 5)
    np.testing.assert_allclose(sums.sum(axis=(0, 1)), count_sums(answers))
    np.testing.assert_allclose(count_bins(answers, (speaker, 5)).sum(axis=0), count_bins(answers))

    rows = np.flatnonzero((speaker == 2) & (group == 1))
    alone = macro_f1(count_sums(answers.take(rows)))
    assert macro_f1(sums)[2, 1] == pytest.approx(float(alone))
