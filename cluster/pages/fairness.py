"""The part of the evaluation's page on single emotions and on groups of people.

Its tables hold what Tables 1 to 5 of two-stage-aver hold, with a line for each emotion or group in
place of a column, so that any number of them fits any screen. Every figure has two intervals: that
by speaker is the one to go by, that by utterance is the paper's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cluster.pages.reliability import colors, reliability_chart
from shards.samples.keys import printable

# Bias is in percent, and the other figures are shares.
_DIGITS = {True: 2, False: 3}
_UNITS = ("by_speaker", "by_utterance")
_WITH_INTERVALS = ("95 % by speaker", "95 % by utterance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A caption, the headings of the columns, and lines of a name and its cells."""

    caption: str
    headings: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmotionPart:
    """The tables of all emotions and of each, and the reliability diagram with its legend."""

    rule: str
    num_bins: int
    tables: Sequence[Table]
    reliability: Markup
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPart:
    """The tables of the groups of one field, and the lines on groups that are too small."""

    field: str
    groups: Table
    differences: Sequence[Table]
    too_small: Sequence[str]


def emotion_part(metrics: Mapping[str, Any]) -> EmotionPart | None:
    """What the page says of single emotions; None for a target without classes."""
    document = metrics.get("one_vs_rest")
    if document is None:
        return None

    points = dict(document["reliability"])
    all_points = points.pop("all")
    by_name = {printable(name): own for name, own in points.items()}
    return EmotionPart(
        rule=document["rule"],
        num_bins=document["num_bins"],
        tables=[_overall(document["overall"]), _emotions(document["emotions"])],
        reliability=reliability_chart(all_points, by_name),
        legend=list(zip(colors(len(by_name)), by_name, strict=True)),
    )


def group_parts(metrics: Mapping[str, Any]) -> list[GroupPart]:
    """What the page says of the groups of each field of --groups."""
    document = metrics.get("fairness", {"fields": {}})
    return [
        GroupPart(
            field=printable(field, 80),
            groups=_groups(found),
            differences=[_differences(found["differences"]), _by_emotion(found["emotions"])],
            too_small=[printable(line, 200) for line in found["too_small"]],
        )
        for field, found in document["fields"].items()
    ]


def _overall(entries: Mapping[str, Any]) -> Table:
    names = {
        "macro_f1": "Macro-F1 ↑",
        "weighted_f1": "Weighted F1 ↑",
        "brier_score": "Brier score ↓",
        "calibration_error": "ECE ↓",
    }
    return Table(
        caption="Over all emotions (as Tables 1 and 2 of the paper)",
        headings=("Figure", "Value", *_WITH_INTERVALS),
        lines=[(shown, _cells(entries[name])) for name, shown in names.items()],
    )


def _emotions(emotions: Mapping[str, Any]) -> Table:
    return Table(
        caption="Each emotion (Table 3)",
        headings=("Emotion", "True of", "F1 ↑", *_WITH_INTERVALS, "Brier ↓", "ECE ↓"),
        lines=[
            (
                printable(name),
                (
                    f"{found['number']:,}",
                    *_cells(found["f1"]),
                    _number(found["brier_score"]["value"]),
                    _number(found["calibration_error"]["value"]),
                ),
            )
            for name, found in emotions.items()
        ],
    )


def _groups(found: Mapping[str, Any]) -> Table:
    small = {line.partition(":")[0] for line in found["too_small"]}
    return Table(
        caption="Macro-F1 of each group (Tables 4 and 5)",
        headings=("Group", "Utterances", "Speakers", "Macro-F1 ↑", *_WITH_INTERVALS),
        lines=[
            (
                printable(name, 80) + (" *" if name in small else ""),
                (
                    f"{group['number']:,}",
                    f"{group['num_speakers']:,}",
                    *_cells(group["macro_f1"]),
                ),
            )
            for name, group in found["groups"].items()
        ],
    )


def _differences(entries: Mapping[str, Any]) -> Table:
    names = {
        "macro_f1_bias": "Macro-F1 bias, % ↓",
        "demographic_parity_mean": "DPD, mean ↓",
        "demographic_parity_worst": "DPD, worst ↓",
        "equalized_odds_mean": "EOD, mean ↓",
        "equalized_odds_worst": "EOD, worst ↓",
    }
    return Table(
        caption="How far the groups are apart: mean and worst over emotions",
        headings=("Difference", "Value", *_WITH_INTERVALS, "p"),
        lines=[
            (
                shown,
                (*_cells(entries[name], is_percent="%" in shown), _number(entries[name]["p"])),
            )
            for name, shown in names.items()
        ],
    )


def _by_emotion(emotions: Mapping[str, Any]) -> Table:
    return Table(
        caption="The same of each emotion, with its interval by speaker",
        headings=("Emotion", "F1 bias, %", "95 %", "DPD", "95 %", "EOD", "95 %"),
        lines=[
            (
                printable(emotion),
                (
                    *_cells(found["emotion_f1_bias"], is_percent=True)[:2],
                    *_cells(found["demographic_parity"])[:2],
                    *_cells(found["equalized_odds"])[:2],
                ),
            )
            for emotion, found in emotions.items()
        ],
    )


def _cells(entry: Mapping[str, Any], *, is_percent: bool = False) -> tuple[str, ...]:
    """The value of a figure and its two intervals."""
    digits = _DIGITS[is_percent]
    return (
        _number(entry["value"], digits),
        *(_ends(entry[unit], digits) for unit in _UNITS),
    )


def _ends(ends: Sequence[float | None], digits: int) -> str:
    low, high = ends
    return "-" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
