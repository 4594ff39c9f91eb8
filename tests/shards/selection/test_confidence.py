"""`--min-confidence` and `--max-entropy`: how sure the teachers must be, for any number of them."""

import numpy as np
import pytest
from scipy.stats import entropy

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.selection.rule import SelectConfig, choose
from tests.shards.selection.inputs import draw_candidates


def configure(*teachers: str, **options: object) -> SelectConfig:
    settings: dict[str, object] = {"classes": EMOTIONS, "min_per_speaker": 0} | options
    return SelectConfig(predictions="in", out="out", teachers=teachers, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("teachers", [("audio",), ("text", "vision"), ("audio", "text", "vision")])
def test_unsure_labels_are_rejected_with_their_own_reasons(teachers: tuple[str, ...]) -> None:
    """Recounted from the mean distributions: the largest probability, and scipy's entropy."""
    candidates = draw_candidates(5)
    plain = choose(candidates, configure(*teachers))
    sure = choose(candidates, configure(*teachers, min_confidence=0.5, max_entropy=1.2))

    unsure = plain.kept & (plain.probs.max(axis=1) < 0.5)
    spread = plain.kept & ~unsure & (np.nan_to_num(entropy(plain.probs, axis=1)) > 1.2)

    assert unsure.any()
    assert spread.any()
    assert (sure.reason[unsure] == "low_confidence").all()
    assert (sure.reason[spread] == "high_entropy").all()
    np.testing.assert_array_equal(sure.kept, plain.kept & ~unsure & ~spread)


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"distance": "js"}])
def test_one_teacher_has_no_threshold(options: dict[str, object]) -> None:
    """An option that would mean nothing is refused, with what to give in its place."""
    with pytest.raises(ConfigError, match=r"one teacher .*give --min-confidence or --max-entropy"):
        configure("audio", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"min_confidence": 0.0},
        {"min_confidence": 1.5},
        {"max_entropy": -1.0},
        {"max_entropy": float("nan")},
    ],
)
def test_impossible_limits_are_refused(options: dict[str, object]) -> None:
    """A limit that nothing or everything meets is a mistake."""
    with pytest.raises(ConfigError, match="expected"):
        configure("audio", **options)
