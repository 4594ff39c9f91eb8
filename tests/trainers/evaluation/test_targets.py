"""A target's loss, answers and scores equal those of torch, torchmetrics and counts by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional import concordance_corrcoef
from torchmetrics.functional.classification import multiclass_f1_score

from shards.loading.targets import Targets
from trainers.evaluation.metrics import ClassScores, ValueScores
from trainers.evaluation.targets import TARGETS, target_of

RNG = np.random.default_rng(0)
SPEAKERS = np.asarray(["a", "a", "b", "b", "b", "c", "c", "c"], dtype=object)


def test_classes_are_fitted_and_scored_as_elsewhere() -> None:
    """Loss, answers, scores and class weights equal torch's, torchmetrics' and those by hand."""
    target = TARGETS["classes"](["x", "y", "z"])
    labels = np.asarray([0, 0, 0, 0, 1, 1, 2, 2])
    truth = Targets("classes", target.names, np.eye(3, dtype=np.float32)[labels])
    scores = torch.from_numpy(RNG.standard_normal((8, 3)).astype(np.float32))

    weights = target.class_weights(truth)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([2 / 3, 4 / 3, 4 / 3]))
    loss = target.loss(
        scores,
        {"classes": torch.from_numpy(truth.array)},
        class_weights=weights,
        row_weights_N=None,
    )
    torch.testing.assert_close(
        loss, F.cross_entropy(scores, torch.from_numpy(labels), weight=weights)
    )

    answers = target.answers(scores).numpy()
    np.testing.assert_allclose(answers.sum(axis=1), 1.0, rtol=1e-6)
    found = target.score(truth, answers, SPEAKERS)
    assert isinstance(found, ClassScores)
    predicted = answers.argmax(axis=1)
    assert found.accuracy == pytest.approx((predicted == labels).mean())
    f1 = multiclass_f1_score(
        torch.from_numpy(predicted), torch.from_numpy(labels), 3, average="macro"
    )
    assert found.macro_f1 == pytest.approx(float(f1))
    assert target.best_figure in found.summary()


def test_values_are_fitted_and_scored_as_elsewhere() -> None:
    """The loss is 1 - CCC, answers are the values themselves, and scores are CCC."""
    target = TARGETS["values"](["arousal", "valence"])
    truth = Targets("values", target.names, RNG.standard_normal((8, 2)).astype(np.float32))
    scores = torch.from_numpy(truth.array + 0.5 * RNG.standard_normal((8, 2)).astype(np.float32))

    expected = concordance_corrcoef(scores, torch.from_numpy(truth.array)).numpy()
    loss = target.loss(
        scores, {"values": torch.from_numpy(truth.array)}, class_weights=None, row_weights_N=None
    )
    biased = [
        2 * np.cov(a, b, bias=True)[0, 1] / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
        for a, b in zip(scores.numpy().T, truth.array.T, strict=True)
    ]
    assert float(loss) == pytest.approx(1 - np.mean(biased), rel=1e-5)
    # Why not closer: torchmetrics takes unbiased variances.
    assert biased == pytest.approx(expected.tolist(), rel=0.05)

    assert target.answers(scores) is scores
    found = target.score(truth, scores.numpy(), SPEAKERS)
    assert isinstance(found, ValueScores)
    assert list(found.overall) == pytest.approx(biased, rel=1e-5)
    assert target.class_weights(truth) is None
    assert target.best_figure in found.summary()


def test_a_table_says_null_where_the_truth_is_not_known() -> None:
    """An unknown truth is null for classes and values, while predictions are always there."""
    answers = np.asarray([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32)
    array = np.asarray([[np.nan, np.nan], [0.0, 1.0]], dtype=np.float32)
    classes, values = TARGETS["classes"](["x", "y"]), TARGETS["values"](["x", "y"])

    written = classes.columns(Targets("classes", classes.names, array), answers)
    assert (written["truth"].to_pylist(), written["predicted"].to_pylist()) == (
        [None, "y"],
        ["x", "y"],
    )

    written = values.columns(Targets("values", values.names, array), answers)
    assert (written["truth_x"].to_pylist(), written["truth_y"].to_pylist()) == (
        [None, 0.0],
        [None, 1.0],
    )
    assert written["score_y"].to_pylist() == pytest.approx([0.1, 0.8])


def test_finished_metrics_tell_their_target() -> None:
    """Metrics tell their target by the figures they hold, even in files of older versions."""
    metrics = {
        "names": ["arousal"],
        "scores": {"overall": [0.5], "over_speakers": [0.4], "over_speakers_std": [0.1]},
    }

    assert target_of(metrics).figures(metrics) == {
        "O-CCC arousal": 0.5,
        "A-CCC arousal": 0.4,
        "A-CCC std arousal": 0.1,
    }
    assert target_of({"names": ["x", "y"], "scores": {"accuracy": 1.0}}).kind == "classes"
