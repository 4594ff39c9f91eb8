"""What is said of groups: known unfairness is found, none where there is none, few are left out."""

from dataclasses import replace

import numpy as np
import pytest

from tests.trainers.evaluation.fairness.made_answers import make_answers, make_grouping
from trainers.evaluation.fairness.chance import chances
from trainers.evaluation.fairness.differences import differences
from trainers.evaluation.fairness.document import judge, judged_by
from trainers.evaluation.multilabel.one_vs_rest import count_sums
from trainers.evaluation.targets import TARGETS

RATED = TARGETS["ratings"](["x", "y", "z"])


def test_known_unfairness_is_found_within_its_interval() -> None:
    """The difference of very many speakers lies within the interval of a few, and p is small."""
    many, _, grouping = make_answers(4000, 10, shift=1.0, seed=1)
    usable = judged_by(many, grouping)
    sums = count_sums(many, (grouping.place, 2))
    true = differences(sums, usable, f1_over="present")

    answers, speakers, grouping = make_answers(40, 20, shift=1.0)
    found = judge(answers, [grouping], speakers, RATED, 0).document["fairness"]
    field = found["fields"]["voice"]
    low, high = field["emotions"]["x"]["demographic_parity"]["by_speaker"]
    assert low < true["demographic_parity"][0] < high
    assert field["differences"]["demographic_parity_worst"]["p"] < 0.01
    assert field["differences"]["equalized_odds_worst"]["p"] < 0.01
    assert field["too_small"] == []


def test_where_groups_do_not_matter_none_is_found_more_often_than_chance_says() -> None:
    """Of 40 worlds without a difference, p is below .1 in about 4."""
    values = []
    for seed in range(40):
        answers, speakers, grouping = make_answers(16, 8, seed=seed)
        usable = judged_by(answers, grouping)
        found = chances(answers, speakers, grouping, usable, f1_over="present", seed=0)
        assert found["demographic_parity_worst"] is not None
        values.append(found["demographic_parity_worst"])
    assert np.mean(np.asarray(values) < 0.1) <= 0.25
    assert 0.3 < np.mean(values) < 0.7


def test_small_groups_are_shown_but_left_out() -> None:
    """A group of one speaker, and one without an emotion, keep their figures and are named."""
    answers, speakers, _ = make_answers(22, 20, shift=0.5)
    number = np.arange(440) // 20
    place = np.where(number == 21, 2, np.where(number >= 16, 3, number % 2))
    grouping = make_grouping("race", ["a", "b", "c", "d"], place, number)
    truth = answers.truth_NC.copy()
    truth[place == 3, 1] = False
    answers = replace(answers, truth_NC=truth)

    judged = judge(answers, [grouping], speakers, RATED, 0)
    assert judged.left_out == {"race": ["c", "d"]}
    field = judged.document["fairness"]["fields"]["race"]
    assert field["too_small"] == ["c: 20 utterances of 1 speaker", "d: no utterance with y"]
    assert field["groups"]["c"]["macro_f1"]["value"] is not None
    assert field["groups"]["c"]["macro_f1"]["by_speaker"][0] is not None
    assert field["groups"]["d"]["emotions"]["y"]["true_positive_rate"] is None

    # Group d counts for the other emotions: without it x would differ otherwise.
    without = make_grouping("race", ["a", "b", "c"], np.where(place == 3, 2, place), number)
    usable = judged_by(answers, without) & np.asarray([[True], [True], [False]])
    pair = differences(count_sums(answers, (without.place, 3)), usable, f1_over="present")
    apart = [field["emotions"][name]["demographic_parity"]["value"] for name in "xy"]
    assert apart[1] == pytest.approx(pair["demographic_parity"][1], abs=1e-6)
    assert apart[0] != pytest.approx(pair["demographic_parity"][0], abs=1e-6)
    assert field["differences"]["macro_f1_bias"]["value"] == pytest.approx(
        float(pair["macro_f1_bias"]), abs=1e-5
    )


def test_groups_within_speakers_have_no_chance_of_speakers() -> None:
    """Where each speaker is in both groups, differences are known, but not their p."""
    answers, speakers, _ = make_answers(20, 20)
    place = np.arange(400) % 2
    grouping = make_grouping("take", ["1", "2"], place, np.arange(400) // 20)
    found = judge(answers, [grouping], speakers, RATED, 0).document["fairness"]["fields"]["take"]
    for entry in found["differences"].values():
        assert entry["value"] is not None
        assert entry["p"] is None


def test_one_group_has_no_differences() -> None:
    """All speakers in one group: its figures are there, and every difference is unknown."""
    answers, speakers, _ = make_answers(10, 10)
    grouping = make_grouping("f", ["all"], np.zeros(100, dtype=int), np.arange(100) // 10)
    judged = judge(answers, [grouping], speakers, RATED, 0)
    found = judged.document["fairness"]["fields"]["f"]
    nothing = {"value": None, "by_speaker": [None] * 2, "by_utterance": [None] * 2, "p": None}
    assert set(map(str, found["differences"].values())) == {str(nothing)}
    overall = judged.document["one_vs_rest"]["overall"]["macro_f1"]
    assert found["groups"]["all"]["macro_f1"] == overall


def test_values_are_judged_by_the_size_of_groups_alone() -> None:
    """A target without classes has no rates; its small groups are left out all the same."""
    _, speakers, grouping = make_answers(8, 10)
    judged = judge(None, [grouping], speakers, TARGETS["values"](["arousal"]), 0)
    assert judged.document == {}
    assert judged.left_out == {"voice": ["high", "low"]}
