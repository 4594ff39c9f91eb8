"""The counts, histograms and Gini coefficients of summary.json, recounted by hand."""

import dataclasses
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.emotions import EMOTIONS
from shards.selection.rule import SPLITS, SelectConfig, choose
from shards.selection.summary import gini, summarize
from tests.shards.selection.inputs import INFO, draw_candidates, permuted

CANDIDATES = draw_candidates(0, num=600)
# The keys that the report reads.
KEYS = {
    *(
        "format_version",
        "config",
        "num_utterances",
        "num_kept",
        "num_rejected",
        "rejected",
        "num_speakers_in",
    ),
    *(
        "num_speakers_kept",
        "shards",
        "panel",
        "hours",
        "keep_rates",
        "classes",
        "splits",
        "utterances_per_speaker",
    ),
    *("advice", "missing_emotions"),
    *("gini", "agreement", "pairs", "retention", "quality"),
}


def configure(**options: Any) -> SelectConfig:
    settings = {
        "predictions": "in",
        "out": "out",
        "teachers": ("text", "vision"),
        "min_per_speaker": 5,
    }
    return SelectConfig(**(settings | options))


def gini_by_definition(counts: list[int]) -> float:
    """The Gini coefficient: the mean absolute difference over twice the mean."""
    differences = [abs(first - second) for first in counts for second in counts]
    return sum(differences) / len(differences) / (2 * sum(counts) / len(counts))


def test_gini_by_hand() -> None:
    """Equal classes have 0, one class of four has 3/4, and two classes 1:3 have 1/4."""
    assert gini(np.array([[5.0, 5, 5, 5], [0, 20, 0, 0]])).tolist() == [0.0, 0.75]
    assert gini(np.array([[1.0, 3.0]])).tolist() == [0.25]


def test_gini_of_the_published_class_counts() -> None:
    """Table II's counts, taken as one speaker's, are near the published mean of 0.51."""
    published = [45_288, 3_682, 21_466, 3_664]
    assert gini(np.array([published], dtype=float))[0] == pytest.approx(
        gini_by_definition(published)
    )
    assert gini(np.array([published], dtype=float))[0] == pytest.approx(0.51, abs=0.05)


@given(st.lists(st.integers(0, 100), min_size=2, max_size=7).filter(any))
def test_gini_is_its_definition(counts: list[int]) -> None:
    """The formula over sorted counts equals the mean absolute difference, whatever the order."""
    assert gini(np.array([counts], dtype=float))[0] == pytest.approx(gini_by_definition(counts))


def test_counts() -> None:
    """Every count of the summary is a recount of the decisions."""
    config = configure(keep_rates={"neutral": 0.7})
    selection = choose(CANDIDATES, config)
    info = dataclasses.replace(INFO, shard_error="truncated: cut short")
    infos = [info, dataclasses.replace(INFO, shard="b.tar")]
    summary = summarize(CANDIDATES, selection, config, infos, unfinished="gave up 1")

    kept = selection.kept
    assert set(summary) == KEYS
    assert summary["num_utterances"] == 600
    assert summary["num_kept"] + summary["num_rejected"] == 600
    assert summary["rejected"] == Counter(
        reason.partition(":")[0] for reason in selection.reason[~kept]
    )
    assert sum(summary["rejected"].values()) == summary["num_rejected"]

    assert summary["num_speakers_in"] == 6
    assert summary["num_speakers_kept"] == len(set(CANDIDATES.speaker[kept].tolist()))
    unreadable = [{"shard": "a.tar", "error": "truncated: cut short"}]
    assert summary["shards"] == {"num": 2, "unfinished": "gave up 1", "unreadable": unreadable}
    assert summary["panel"] == INFO.labelers

    assert summary["hours"]["in"] == pytest.approx(CANDIDATES.seconds.sum() / 3600, abs=1e-4)
    assert summary["hours"]["kept"] == pytest.approx(
        CANDIDATES.seconds[kept].sum() / 3600, abs=1e-4
    )

    names = Counter(EMOTIONS[number] for number in selection.label[kept])
    assert summary["classes"]["counts"] == {name: names[name] for name in config.classes}
    before = Counter(EMOTIONS[number] for number in selection.label if number >= 0)
    assert summary["classes"]["counts_before"] == {name: before[name] for name in EMOTIONS}
    assert summary["keep_rates"] == {"neutral": 0.7}

    assert {name: counts["utterances"] for name, counts in summary["splits"].items()} == {
        name: int((selection.split == name).sum()) for name in SPLITS
    }
    assert (
        sum(counts["speakers"] for counts in summary["splits"].values())
        == summary["num_speakers_kept"]
    )


def test_speaker_statistics() -> None:
    """Utterances and Gini coefficients of speakers are recounted speaker by speaker."""
    config = configure()
    selection = choose(CANDIDATES, config)
    summary = summarize(CANDIDATES, selection, config, [INFO])

    wanted = [EMOTIONS.index(name) for name in config.classes]
    counts = []
    for speaker in sorted(set(CANDIDATES.speaker[selection.kept].tolist())):
        labels = Counter(selection.label[selection.kept & (CANDIDATES.speaker == speaker)].tolist())
        counts.append([labels[number] for number in wanted])

    totals = [sum(row) for row in counts]
    assert summary["utterances_per_speaker"]["min"] == min(totals)
    assert summary["utterances_per_speaker"]["max"] == max(totals)
    assert summary["utterances_per_speaker"]["median"] == np.median(totals)
    assert summary["utterances_per_speaker"]["mean"] == pytest.approx(np.mean(totals), abs=0.01)

    assert summary["gini"]["mean"] == pytest.approx(
        np.mean([gini_by_definition(row) for row in counts]), abs=1e-4
    )
    assert sum(summary["gini"]["histogram"]["counts"]) == len(totals)


@pytest.mark.parametrize("distance", ["kl", "js"])
def test_agreement(distance: str) -> None:
    """The histogram counts each utterance on which both teachers spoke.

    The most distant ones are in its last bin.
    """
    config = configure(distance=distance, threshold=0.2)
    selection = choose(CANDIDATES, config)
    summary = summarize(CANDIDATES, selection, config, [INFO])

    histogram = summary["agreement"]["histogram"]
    text, vision = (CANDIDATES.teachers[name] for name in config.teachers)
    both = ~np.isnan(text).any(axis=1) & ~np.isnan(vision).any(axis=1)

    assert summary["agreement"]["distance"] == distance
    assert summary["agreement"]["threshold"] == 0.2
    assert sum(histogram["counts"]) == both.sum()
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    near = (selection.distance <= histogram["edges"][10]).sum()
    assert sum(histogram["counts"][:10]) == pytest.approx(near, abs=1)
    assert (
        summary["agreement"]["num_beyond"]
        == (selection.distance > histogram["edges"][-1] + 1e-6).sum()
    )

    same = (text[both].argmax(axis=1) == vision[both].argmax(axis=1)).mean()
    assert summary["pairs"] == {"text,vision": pytest.approx(same, abs=1e-4)}


def test_three_teachers_have_three_pairs() -> None:
    """Each pair of teachers has its share of utterances for which both name the same emotion."""
    config = configure(teachers=("text", "vision", "audio"))
    summary = summarize(CANDIDATES, choose(CANDIDATES, config), config, [INFO])
    assert list(summary["pairs"]) == ["text,vision", "text,audio", "vision,audio"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"teachers": ("audio",)},
        {"distance": "js", "threshold": "match-kl"},
        {"min_per_speaker": 10_000},
    ],
)
@pytest.mark.parametrize("num", [600, 0])
def test_the_summary_is_strict_json(options: dict[str, Any], num: int) -> None:
    """Whatever is selected from, the summary holds no NaN and no infinity and survives JSON."""
    config = configure(**options)
    candidates = permuted(CANDIDATES, np.arange(num))
    summary = summarize(candidates, choose(candidates, config), config, [INFO])

    assert set(summary) == KEYS
    again = json.loads(json.dumps(summary, allow_nan=False))
    assert again == json.loads(json.dumps(summary))

    if "teachers" in options:
        assert summary["agreement"] is None
    if "min_per_speaker" in options or num == 0:
        assert summary["gini"] is None
        assert summary["utterances_per_speaker"] is None
