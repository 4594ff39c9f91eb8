"""Ratings as a target of training and evaluation: loss, answers, truth, scores and columns."""

import numpy as np
import pytest
import torch

from shards.loading.ratings import distributions, multi_hot
from shards.loading.targets import Targets
from trainers.evaluation.metrics import RatedScores
from trainers.evaluation.multilabel.one_vs_rest import labels_of_shares
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.targets import TARGETS, target_of

NAMES = ("x", "y", "z")
VOTES = np.asarray([[4, 2, 0], [2, 2, 2], [1, 0, 5], [0, 3, 3], [0, 0, 0]])
ANSWERS = np.asarray(
    [[0.6, 0.3, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.1, 0.4], [0.1, 0.5, 0.4], [0.2, 0.2, 0.6]],
    dtype=np.float32,
)
SPEAKERS = np.asarray(["a", "a", "b", "b"], dtype=object)


def rated() -> tuple[RatedTarget, Targets]:
    return RatedTarget(NAMES), Targets("ratings", NAMES, distributions(VOTES))


def test_the_shares_of_the_votes_are_learned() -> None:
    """The loss is the cross-entropy with the distributions, computed here by numpy."""
    target, truth = rated()
    scores = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    loss = target.loss(
        torch.from_numpy(scores),
        {"ratings": torch.from_numpy(truth.array[:4])},
        class_weights=None,
        row_weights_N=None,
    )
    logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    shares = VOTES[:4] / VOTES[:4].sum(axis=1, keepdims=True)
    assert float(loss) == pytest.approx(-(shares * logs).sum(axis=1).mean(), rel=1e-5)


def test_several_classes_are_true_and_several_answered() -> None:
    """By hand: 1/3 is above no threshold; utterance 3 has two labels, and 4 is not rated.

    Truth: x; none; z; y and z. Answers: x; none; x and z; y and z.
    """
    target, truth = rated()
    known = truth.take(np.arange(4))
    found = target.score(known, ANSWERS[:4], SPEAKERS)
    assert isinstance(found, RatedScores)
    f1 = np.asarray([2 / 3, 1.0, 1.0])
    assert found.macro_f1 == pytest.approx(f1.mean())
    assert found.weighted_f1 == pytest.approx((f1 @ [1, 1, 2]) / 4)
    # Speaker b alone: F1 of x is 0, of y and z 1.
    assert found.per_speaker["a"].f1 == 1.0
    assert found.per_speaker["b"].f1 == pytest.approx(2 / 3)
    assert found.speaker_f1 == pytest.approx(5 / 6)
    errors = np.square(ANSWERS[:4] - [[1, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
    assert found.brier_score == pytest.approx(errors.mean(), rel=1e-6)
    assert target.best_figure in found.summary()

    intervals = target.intervals(found, known, ANSWERS[:4], SPEAKERS, seed=0)
    assert set(intervals) == {*found.summary(), "calibration_error"}
    low, high = intervals["speaker_f1"]
    assert (low, high) == pytest.approx((2 / 3, 1.0))


def test_a_table_lists_the_classes_of_each_utterance() -> None:
    """Truth and answers are lists of names beside the shares; what is not rated is null."""
    target, truth = rated()
    written = target.columns(truth, ANSWERS)
    assert written["truth"].to_pylist() == [["x"], [], ["z"], ["y", "z"], None]
    assert written["predicted"].to_pylist()[2:] == [["x", "z"], ["y", "z"], ["z"]]
    assert written["truth_y"].to_pylist()[3:] == [0.5, None]
    assert written["score_z"].to_pylist()[4] == pytest.approx(0.6)


@pytest.mark.parametrize("num_classes", [2, 3, 6, 7, 28])
def test_shares_give_the_labels_of_whole_numbers(num_classes: int) -> None:
    """Also where votes lie exactly on 1/C, whatever float32 makes of the share."""
    rng = np.random.default_rng(num_classes)
    for total in [*range(1, 60), 6 * 7 * 28 * 80]:
        votes = rng.multinomial(total, rng.dirichlet(np.ones(num_classes)), size=20)
        at = np.arange(20)
        if total % num_classes == 0:
            votes[at, 0], votes[at, 1] = total // num_classes, total - total // num_classes
            votes[:, 2:] = 0
        np.testing.assert_array_equal(labels_of_shares(distributions(votes)), multi_hot(votes))


def test_finished_metrics_of_ratings_are_known_as_such() -> None:
    """The kind of target of a metrics.json follows from its figures."""
    scores = dict.fromkeys(RatedTarget.FIGURES, 0.5)
    metrics = {"names": NAMES, "scores": scores, "intervals": {"macro_f1": [0.4, 0.6]}}
    target = target_of(metrics)
    assert (target.kind, target.figures(metrics)["WF1"]) == ("ratings", 0.5)
    assert target.shown_intervals(metrics) == {"F1": [0.4, 0.6]}
    assert set(TARGETS) == {"classes", "values", "ratings"}
