"""What `emostream evaluate` prints of single emotions, and of groups of people."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shards.samples.keys import printable

# How the differences of `fairness.differences` are called for people.
NAMES: Mapping[str, str] = {
    "macro_f1_bias": "macro-F1 bias, %",
    "emotion_f1_bias_mean": "F1 bias, %, mean over emotions",
    "emotion_f1_bias_worst": "F1 bias, %, worst emotion",
    "demographic_parity_mean": "demographic parity difference, mean",
    "demographic_parity_worst": "demographic parity difference, worst",
    "equalized_odds_mean": "equalized odds difference, mean",
    "equalized_odds_worst": "equalized odds difference, worst",
}
# Bias is in percent.
_DIGITS = {True: 2, False: 4}


def emotion_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """A line for each emotion: of how many utterances it is true, F1, Brier score and ECE."""
    yield f"{'emotion':28s} {'true of':>8s} {'F1':>8s} {'Brier':>8s} {'ECE':>8s}"

    for emotion, found in document["emotions"].items():
        figures = " ".join(
            f"{shown_number(found[name]['value'], 4):>8s}"
            for name in ("f1", "brier_score", "calibration_error")
        )
        yield f"  {printable(emotion, 26):26s} {found['number']:8d} {figures}"


def fairness_lines(document: Mapping[str, Any], field: str) -> Iterator[str]:
    """A line for each difference between the groups of a field, and who is too few to judge."""
    found = document["fields"][field]
    yield (
        f"  {'differences between groups':38s} {'value':>7s} {'95 % by speaker':>18s} "
        f"{'by utterance':>18s} {'p':>6s}"
    )
    for name, entry in found["differences"].items():
        digits = digits_of(name)
        yield (
            f"  {NAMES[name]:38s} {shown_number(entry['value'], digits):>7s} "
            f"{shown_ends(entry['by_speaker'], digits):>18s} "
            f"{shown_ends(entry['by_utterance'], digits):>18s} {shown_number(entry['p'], 3):>6s}"
        )

    yield "  p: how often groups are as far apart when speakers are dealt out to them by chance"
    if found["too_small"]:
        yield (
            f"  too small to judge (fewer than {document['min_utterances']} utterances or "
            f"{document['min_speakers']} speakers, or without an emotion), and left out of the "
            f"differences: {'; '.join(printable(line, 200) for line in found['too_small'])}"
        )


def digits_of(name: str) -> int:
    """How many decimals a difference is shown with."""
    return _DIGITS["bias" in name]


def shown_number(value: float | None, digits: int) -> str:
    """A number for people; a dash for one that is not known."""
    return "-" if value is None else f"{value:.{digits}f}"


def shown_ends(ends: Sequence[float | None], digits: int) -> str:
    """An interval for people; a dash for one that is not known."""
    low, high = ends
    if low is None or high is None:
        return "-"
    return f"{low:.{digits}f} to {high:.{digits}f}"
