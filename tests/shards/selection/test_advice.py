"""A selection that keeps next to nothing says why, and what to try."""

import dataclasses

import numpy as np
import pytest

from shards.emotions import EMOTIONS
from shards.selection.advice import advice
from shards.selection.rule import SelectConfig, choose
from shards.selection.summary import summarize
from tests.shards.selection.inputs import INFO, draw_candidates, one_hot


def configure(**options: object) -> SelectConfig:
    settings: dict[str, object] = {"teachers": ("text", "audio"), "min_per_speaker": 0} | options
    return SelectConfig(predictions="in", out="out", **settings)  # type: ignore[arg-type]


def test_the_largest_losses_come_first_with_their_option() -> None:
    """Each line has the number, the reason, the option that decides it and its present value."""
    lines = advice(
        3, 4132, {"disagreement": 4000, "speaker_below_minimum": 129}, configure(min_per_speaker=50)
    )
    assert lines[0] == "3 of 4132 utterances are kept; most are lost for these reasons:"
    assert lines[1].startswith("4000 x disagreement: a larger --threshold keeps more")
    assert lines[1].endswith("(now 1.0)")
    assert lines[2] == (
        "129 x speaker_below_minimum: a smaller --min-per-speaker keeps speakers with fewer "
        "utterances (now 50)"
    )


@pytest.mark.parametrize(("num_kept", "num_utterances"), [(42, 4132), (1, 1), (0, 0)])
def test_an_ordinary_selection_needs_no_advice(num_kept: int, num_utterances: int) -> None:
    """From one percent on nothing is said, nor about a corpus of nothing."""
    assert advice(num_kept, num_utterances, {"disagreement": 9}, configure()) == []


def test_every_reason_that_selection_gives_has_a_remedy() -> None:
    """Whatever a selection loses everything to, the summary names an option, not a shrug."""
    candidates = draw_candidates(0)
    sure = {name: np.tile(one_hot("fear").astype(float), (300, 1)) for name in ("text", "audio")}
    agreeing = dataclasses.replace(candidates, teachers=sure)
    torn = {**sure, "audio": np.tile(one_hot("anger").astype(float), (300, 1))}
    nobody = np.full(300, -1)
    losses = {
        "class_excluded": (agreeing, configure()),
        "disagreement": (dataclasses.replace(candidates, teachers=torn), configure()),
        "low_confidence": (agreeing, configure(min_confidence=0.99)),
        "high_entropy": (agreeing, configure(max_entropy=0.01)),
        "no_speaker": (dataclasses.replace(agreeing, speaker=nobody), configure(classes=EMOTIONS)),
        "speaker_below_minimum": (agreeing, configure(classes=EMOTIONS, min_per_speaker=400)),
    }
    for code, (world, config) in losses.items():
        said = summarize(world, choose(world, config), config, [INFO])["advice"]
        assert said[1].split(": ")[0].endswith(f"x {code}"), said
        assert "rejected.parquet" not in said[1]
