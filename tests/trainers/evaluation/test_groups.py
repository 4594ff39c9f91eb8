"""Figures of groups, and how far they are apart."""

from typing import Any

import pytest

from trainers.evaluation.groups import bias_over_groups
from trainers.evaluation.targets import TARGETS


def group(ccc: float) -> dict[str, Any]:
    return {"scores": {"overall": [ccc], "over_speakers": [ccc], "over_speakers_std": [0.1]}}


def test_groups_that_are_left_out_do_not_count() -> None:
    """O-CCC of .1, .2, .4 and .9: the pairs of the first three differ by .2 on average."""
    target = TARGETS["values"](["arousal"])
    groups = {name: group(ccc) for name, ccc in zip("abcd", (0.1, 0.2, 0.4, 0.9), strict=True)}
    found = bias_over_groups(target, groups, ["d"])
    assert found == {"O-CCC arousal": pytest.approx(20), "A-CCC arousal": pytest.approx(20)}
    assert bias_over_groups(target, groups, ["a", "b", "c"]) == dict.fromkeys(found)


def test_a_group_without_the_figure_takes_no_part() -> None:
    """NaN is no figure: two groups are left, and then one."""
    target = TARGETS["values"](["arousal"])
    groups = {"a": group(0.1), "b": group(0.3), "c": group(float("nan"))}
    assert bias_over_groups(target, groups)["O-CCC arousal"] == pytest.approx(20)
    assert bias_over_groups(target, groups, ["a"])["O-CCC arousal"] is None
