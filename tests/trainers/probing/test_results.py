"""Figures, intervals and differences equal those from repeating rows and scoring them elsewhere."""

import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score

from shards.resampling import SpeakerResamples
from trainers.probing.results import Answers, compare_answers, fold_figures, summarize_answers

NAMES = ("w", "x", "y")
Figure = Callable[[NDArray[np.int64], NDArray[np.int64]], float]
FIGURES: dict[str, Figure] = {
    "accuracy": accuracy_score,
    "unweighted_accuracy": lambda truth, said: unwarned(balanced_accuracy_score, truth, said),
    "weighted_f1": lambda truth, said: f1_score(truth, said, average="weighted"),
    "macro_f1": lambda truth, said: f1_score(truth, said, average="macro"),
}


def unwarned(figure: Figure, truth: NDArray[np.int64], said: NDArray[np.int64]) -> float:
    """A figure without scikit-learn's warning of classes that are only predicted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return figure(truth, said)


def make_answers(seed: int = 0, *, skill: float = 0.4, num_speakers: int = 8) -> Answers:
    """Answers of four folds of whole speakers, ten or more utterances a speaker."""
    rng = np.random.default_rng(99)
    speaker = np.repeat(np.arange(num_speakers), 10 + np.arange(num_speakers))
    truth = rng.integers(3, size=len(speaker))
    own = np.random.default_rng(seed)
    predicted = np.where(own.random(len(truth)) < skill, truth, own.integers(3, size=len(truth)))

    return Answers(
        names=NAMES,
        utterance=np.asarray([f"a.tar/{place:03d}" for place in range(len(truth))]),
        speaker=np.asarray([f"s{number}" for number in speaker]),
        subset=np.zeros(len(truth), dtype=np.int64),
        fold=(speaker % 4).astype(np.int64),
        truth=truth,
        predicted=predicted,
    )


def times_of(units: NDArray[np.str_]) -> NDArray[np.int64]:
    """How often each resample [R, M] draws each answer."""
    number = np.unique(units, return_inverse=True)[1].astype(np.int64)
    resamples = SpeakerResamples(number, 0)
    drawn = resamples.totals(np.eye(resamples.num_groups)).round().astype(np.int64)
    found: NDArray[np.int64] = drawn[:, resamples.group]
    return found


def figure_of(answers: Answers, name: str, times: NDArray[np.int64], mean: str) -> float:
    """A figure of repeated rows, by scikit-learn; folds weigh as often as they are drawn."""
    rows = np.repeat(np.arange(len(times)), times)
    if mean == "pooled":
        return float(FIGURES[name](answers.truth[rows], answers.predicted[rows]))

    values, weights = [], []
    for fold in np.unique(answers.fold[rows]):
        mine = rows[answers.fold[rows] == fold]
        values.append(FIGURES[name](answers.truth[mine], answers.predicted[mine]))
        weights.append(len(mine) / (answers.fold == fold).sum())
    return float(np.average(values, weights=weights))


@pytest.mark.parametrize("mean", ["folds", "pooled"])
@pytest.mark.parametrize("name", FIGURES)
def test_figures_and_intervals(name: str, mean: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and both intervals equal those of scikit-learn on repeated rows."""
    monkeypatch.setattr("shards.resampling.NUM_RESAMPLES", 40)
    answers = make_answers()
    found = summarize_answers(answers, seed=0)[mean][name]
    once = np.ones(len(answers.truth), dtype=np.int64)
    assert found["value"] == pytest.approx(figure_of(answers, name, once, mean), abs=1e-6)

    for unit in ("speaker", "utterance"):
        drawn = times_of(getattr(answers, unit))
        resampled = [figure_of(answers, name, times, mean) for times in drawn]
        ends = np.quantile(resampled, [0.025, 0.975])
        assert found[f"by_{unit}"] == pytest.approx(ends, abs=1e-6)


def test_the_paper_averages_folds_and_pooling_does_not() -> None:
    """Folds of 1 and 3 utterances, all wrong and all right: 50 % and 75 %."""
    answers = replace(
        make_answers(),
        utterance=np.asarray(list("abcd")),
        speaker=np.asarray(list("abcd")),
        subset=np.zeros(4, dtype=np.int64),
        fold=np.asarray([0, 1, 1, 1]),
        truth=np.asarray([0, 0, 1, 2]),
        predicted=np.asarray([1, 0, 1, 2]),
    )
    found = summarize_answers(answers, seed=0)
    assert (found["folds"]["accuracy"]["value"], found["pooled"]["accuracy"]["value"]) == (
        0.5,
        0.75,
    )
    assert found["folds"]["accuracy"]["std"] == pytest.approx(np.std([0, 1], ddof=1), abs=1e-6)
    assert fold_figures(answers, 1)["accuracy"] == 1.0


def test_subsets_are_averaged() -> None:
    """Two choices of training utterances, one always right and one always wrong: a half."""
    one = make_answers()
    both = Answers(
        names=NAMES,
        utterance=np.repeat(one.utterance, 2),
        speaker=np.repeat(one.speaker, 2),
        subset=np.tile([0, 1], len(one.truth)),
        fold=np.repeat(one.fold, 2),
        truth=np.repeat(one.truth, 2),
        predicted=np.stack([one.truth, (one.truth + 1) % 3], axis=1).ravel(),
    )
    found = summarize_answers(both, seed=0)
    for mean in ("folds", "pooled"):
        assert found[mean]["accuracy"]["value"] == pytest.approx(0.5)
        assert found[mean]["accuracy"]["by_utterance"] == pytest.approx([0.5, 0.5])


def test_differences_are_paired() -> None:
    """The same answers differ by exactly 0; the interval of a difference is narrower than both."""
    mine, theirs = make_answers(0, skill=0.6), make_answers(0, skill=0.5)
    same = compare_answers(mine, mine, seed=0)
    assert same is not None
    assert same["pooled"]["accuracy"]["by_speaker"] == [0.0, 0.0]

    found, own = compare_answers(mine, theirs, seed=0), summarize_answers(mine, seed=0)
    assert found is not None
    for mean in ("folds", "pooled"):
        difference = found[mean]["accuracy"]
        once = np.ones(len(mine.truth), dtype=np.int64)
        wanted = [figure_of(one, "accuracy", once, mean) for one in (mine, theirs)]
        assert difference["value"] == pytest.approx(wanted[0] - wanted[1], abs=1e-6)
        width = np.ptp(difference["by_utterance"])
        assert width < np.ptp(own[mean]["accuracy"]["by_utterance"])


def test_probes_of_other_utterances_are_not_paired() -> None:
    """Other utterances, folds or classes have no difference."""
    mine = make_answers()
    for change in (
        {"fold": (mine.fold + 1) % 4},
        {"utterance": mine.utterance[::-1]},
        {"names": ("w", "x", "z")},
    ):
        assert compare_answers(mine, replace(mine, **change), seed=0) is None  # type: ignore[arg-type]
