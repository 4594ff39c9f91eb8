"""Methods are compared by how far they set groups apart, in the same resamples of the speakers."""

import numpy as np
import pyarrow as pa
import pytest

from shards.loading.targets import Targets
from tests.trainers.evaluation.fairness.made_answers import make_answers
from trainers.evaluation.fairness.compared import fairness_figures
from trainers.evaluation.fairness.document import judge
from trainers.evaluation.resampled import ResampledRun, difference_interval, interval, resampled_run
from trainers.evaluation.targets import TARGETS

TARGET = TARGETS["ratings"](["x", "y", "z"])


def evaluated(shift: float, seed: int) -> tuple[dict[str, float], ResampledRun]:
    """The figures of an evaluation by voice, and the same in resamples of its table."""
    answers, speakers, grouping = make_answers(40, 10, shift=shift, seed=seed)
    # Utterances without any class have equal shares: none of them is above 1/3.
    number = answers.truth_NC.sum(axis=1, keepdims=True)
    shares = np.where(number > 0, answers.truth_NC / np.maximum(number, 1), 1 / 3)
    # Where all three classes are true, equal shares would make none true: two of them are left.
    shares[number[:, 0] == 3] = [0.5, 0.5, 0.0]
    truth = Targets("ratings", TARGET.names, shares.astype(np.float32))

    groups = np.asarray(grouping.names, dtype=object)[grouping.place]
    table = pa.table(
        {
            **TARGET.columns(truth, answers.probs_NC),
            "speaker": pa.array(speakers),
            "group_voice": pa.array(groups, pa.string()),
        }
    )
    judged = judge(
        TARGET.one_vs_rest(truth, answers.probs_NC), [grouping], speakers, TARGET, 0
    ).document
    metrics = {"names": TARGET.names, "scores": {"brier_score": 0.0}}
    return fairness_figures(judged), resampled_run(metrics, table, "present")


def test_groups_are_compared_within_resamples() -> None:
    """Figures lie within their intervals, and the unfair method is apart from the fair one."""
    (fair, fair_run), (unfair, unfair_run) = evaluated(0.0, 0), evaluated(2.0, 0)
    assert set(unfair) == {"voice bias", "voice DPD", "voice EOD"}
    for name, value in unfair.items():
        ends = interval([unfair_run], name)
        assert ends is not None
        assert ends[0] < value < ends[1]

    apart = difference_interval([unfair_run], [fair_run], "voice DPD")
    assert apart is not None
    assert 0 < apart[0] < unfair["voice DPD"] - fair["voice DPD"] < apart[1]
    assert difference_interval([fair_run], [fair_run], "voice bias") == (0.0, 0.0)


def test_what_is_not_known_is_no_figure() -> None:
    """Differences between groups that are too small are left out, and bias is a share."""
    known = {"value": 2.5}
    nothing = {"value": None}
    found = {
        "macro_f1_bias": known,
        "demographic_parity_mean": nothing,
        "equalized_odds_mean": nothing,
    }
    metrics = {"fairness": {"fields": {"sex": {"differences": found}}}}
    assert fairness_figures(metrics) == {"sex bias": pytest.approx(0.025)}
    assert fairness_figures({}) == {}
