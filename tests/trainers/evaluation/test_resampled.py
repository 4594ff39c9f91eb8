"""Methods compared over resampled speakers: paired within each resample, or not at all."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from shards.loading.ratings import distributions
from shards.loading.targets import Targets
from trainers.evaluation.metrics import score_classes
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.resampled import difference_interval, interval, resampled_run

NAMES = ["calm", "cross"]
METRICS = {"scores": {"accuracy": 0.0}, "names": NAMES}


def answers(num_right: list[int], speakers: str = "s") -> pa.Table:
    """Ten utterances a speaker, alternately of either class, of which the first ones are right."""
    rows: list[dict[str, Any]] = []
    for speaker, right in enumerate(num_right):
        for number in range(10):
            truth = number % 2
            said = truth if number < right else 1 - truth
            row = {"truth": NAMES[truth], "predicted": NAMES[said]}
            rows.append({"speaker": f"{speakers}{speaker}", **row})
    return pa.Table.from_pylist(rows)


def test_a_difference_is_paired_by_speaker() -> None:
    """One more right of each speaker's ten is .1 in every resample, however speakers differ."""
    theirs = resampled_run(METRICS, answers([1, 9, 4, 6, 2]), "present")
    mine = resampled_run(METRICS, answers([2, 10, 5, 7, 3]), "present")

    own = interval([theirs], "ACC")
    assert own is not None
    assert own[1] - own[0] > 0.3
    assert difference_interval([mine], [theirs], "ACC") == pytest.approx((0.1, 0.1))
    # The mean of two runs, of which one is the baseline, is half as far from it.
    assert difference_interval([mine, theirs], [theirs], "ACC") == pytest.approx((0.05, 0.05))


def test_an_interval_contains_the_figure() -> None:
    """Each figure of a run lies within its interval, and unknown truths do not count."""
    table = answers([1, 9, 4, 6, 2])
    unknown = pa.Table.from_pylist([{"speaker": "s9", "truth": None, "predicted": "calm"}])
    both = pa.concat_tables([table, unknown], promote_options="default")
    run = resampled_run(METRICS, both, "present")
    assert run.speakers == ("s0", "s1", "s2", "s3", "s4")

    truth, predicted = (
        np.asarray([NAMES.index(text) for text in table[name].to_pylist()])
        for name in ("truth", "predicted")
    )
    speakers = np.asarray(table["speaker"].to_pylist(), dtype=object)
    scores = score_classes(truth, predicted, speakers, NAMES, f1_over="present")
    figures = {"ACC": scores.accuracy, "F1": scores.macro_f1, "A-F1": scores.speaker_f1}
    for shown, value in figures.items():
        ends = interval([run], shown)
        assert ends is not None
        assert ends[0] < value < ends[1]


def test_other_speakers_cannot_be_paired() -> None:
    """A difference between methods on different speakers has no interval."""
    here = resampled_run(METRICS, answers([1, 9, 4]), "present")
    there = resampled_run(METRICS, answers([1, 9, 4], speakers="t"), "present")
    assert difference_interval([here], [there], "ACC") is None
    assert interval([here, there], "ACC") is None
    assert interval([here], "ACC") is not None


def test_values_are_paired_too() -> None:
    """A method that gives the baseline's values differs by nothing in every resample."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40).astype(np.float32)
    metrics = {"scores": {"overall": [0.5]}, "names": ["arousal"]}
    table = pa.table(
        {
            "speaker": [f"s{number % 8}" for number in range(40)],
            "truth_arousal": truth,
            "score_arousal": truth + rng.normal(size=40).astype(np.float32),
        }
    )
    run = resampled_run(metrics, table, "present")
    own = interval([run], "O-CCC arousal")
    assert own is not None
    assert own[0] < own[1]
    assert difference_interval([run], [run], "O-CCC arousal") == (0.0, 0.0)
    assert difference_interval([run], [run], "A-CCC arousal") == (0.0, 0.0)


def test_ratings_are_resampled_from_their_table() -> None:
    """The figures of a table of several labels lie within their intervals; a copy differs by 0."""
    rng = np.random.default_rng(0)
    votes = rng.multinomial(9, [0.6, 0.3, 0.1], size=40)
    target = RatedTarget(["x", "y", "z"])
    truth = Targets("ratings", target.names, distributions(votes))
    probs = rng.dirichlet([2, 1, 1], size=40).astype(np.float32)
    speakers = np.asarray([f"s{n % 8}" for n in range(40)], dtype=object)

    table = pa.table({**target.columns(truth, probs), "speaker": pa.array(speakers)})
    scores = asdict(target.score(truth, probs, speakers))
    metrics = {"names": target.names, "scores": {name: scores[name] for name in target.FIGURES}}
    run = resampled_run(metrics, table, "present")
    for shown, value in target.figures(metrics).items():
        if not shown.endswith(" std"):
            ends = interval([run], shown)
            assert ends is not None
            assert ends[0] < value < ends[1]
    assert difference_interval([run], [run], "Brier") == (0.0, 0.0)
