"""What the report shows, from summary.json: the figures and sentences of each section.

Everything here is a pure function of the summary, so that a section can be checked without a page.
A section is None when the selection lacks its numbers (one teacher, no ground truth, nothing kept);
the template then says why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.pages.page import ConfusionRow, confusion_cells, percent, share_of
from shards.samples.keys import printable
from shards.tables.predictions import MODALITIES

Summary = Mapping[str, Any]

# The first digits of a digest are enough to tell two digests apart.
_DIGEST = re.compile(r"\b((?:sha256:)?[0-9a-f]{12})[0-9a-f]{52}\b")

# The selection's own reasons, in the order in which it applies them. All other reasons come first:
# they say what is wrong with a sample or a prediction.
SELECTION_REASONS: Mapping[str, str] = {
    "filtered": "filtered out",
    "outside_known_emotions": "emotion that a teacher lacks",
    "disagreement": "teachers disagree",
    "low_confidence": "label not probable enough",
    "high_entropy": "label too uncertain",
    "class_excluded": "emotion not asked for",
    "no_speaker": "speaker not known",
    "down_sampled": "down-sampled for balance",
    "speaker_below_minimum": "speaker below minimum",
}
DISTANCE_NAMES = {"kl": "KL divergence", "js": "Jensen-Shannon divergence"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A line of the quality table; accuracy and macro-F1 are texts with their intervals."""

    name: str
    num_utterances: int
    accuracy: str
    macro_f1: str


def interval(score: Mapping[str, float | None]) -> str:
    """Format a score as `91.0 % (88.0 to 93.0)`; a single speaker may give no interval."""
    if score["value"] is None:
        return "not measurable"
    value = f"{100 * score['value']:.1f} %"
    if score["low"] is None or score["high"] is None:
        return value
    return f"{value} ({100 * score['low']:.1f} to {100 * score['high']:.1f})"


def agreeing(config: Mapping[str, Any]) -> str:
    """Say who has to agree, in words for the middle of a sentence."""
    names = config["teachers"]
    return {1: f"the {names[0]} teacher names one", 2: "both teachers agree"}.get(
        len(names), "all teachers agree"
    )


def headline(summary: Summary) -> str:
    """Sum up the page in two sentences."""
    total, kept = summary["num_utterances"], summary["num_kept"]
    first = f"{total:,} utterances in, {kept:,} kept ({percent(share_of(kept, total))})."

    scores = summary["quality"]
    if not kept:
        return f"{first} Nothing passed the selection; the reasons are below."
    if scores is None or scores["kept"]["accuracy"]["value"] is None:
        return (
            f"{first} The accuracy of the labels is not known: the samples carry no ground truth."
        )

    right = percent(scores["kept"]["accuracy"]["value"])
    if len(summary["config"]["teachers"]) == 1:
        return (
            f"{first} Labels are right {right} of the time; with one teacher, no agreement was "
            "required."
        )

    best = scores["kept_vs_best_teacher"]["best_teacher"]
    alone = scores["teachers"][best]["accuracy"]["value"]
    beside = "" if alone is None else f"; the best single teacher ({best}) alone, {percent(alone)}"
    return (
        f"{first} Labels are right {right} of the time where {agreeing(summary['config'])}{beside}."
    )


def ordered_losses(rejected: Mapping[str, int]) -> list[tuple[str, int]]:
    """Return (reason in words, count) for everything lost.

    Unusable samples come first, then the selection's own reasons in the order in which it applies
    them.
    """
    unusable = [
        (printable(code.replace("_", " "), 40), n)
        for code, n in rejected.items()
        if code not in SELECTION_REASONS
    ]

    return unusable + [
        (words, rejected[code]) for code, words in SELECTION_REASONS.items() if code in rejected
    ]


def quality_scores(summary: Summary) -> tuple[Score, ...]:
    """Return the scores of each teacher, of all teachers averaged, and of what was kept."""
    return tuple(
        Score(
            name=name,
            num_utterances=scores["n"],
            accuracy=interval(scores["accuracy"]),
            macro_f1=interval(scores["macro_f1"]),
        )
        for name, scores in scored(summary)
    )


def scored(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """Every set of labels that is measured, by name; none where no truth is known."""
    quality = summary["quality"]
    if quality is None:
        return []
    alone = [(f"{name} alone", scores) for name, scores in quality["teachers"].items()]
    together = [("averaged, no filter", quality["combined"])] if len(alone) > 1 else []
    return [*alone, *together, ("kept", quality["kept"])]


def confusion_rows(summary: Summary) -> tuple[ConfusionRow, ...]:
    """Return (true emotion, its cells): how the kept utterances of this emotion were labeled."""
    if summary["quality"] is None:
        return ()
    return confusion_cells(
        summary["quality"]["confusion"]["labels"], summary["quality"]["confusion"]["matrix"]
    )


def panel_rows(summary: Summary) -> list[tuple[str, str, str, bool]]:
    """Return a row for each labeler of the panel, the modalities first.

    A row is (labeler, checkpoint, what else its tables say of it, whether it was a teacher).
    """
    panel = summary["panel"]
    names = [name for name in MODALITIES if name in panel] + [
        name for name in panel if name not in MODALITIES
    ]

    rows = []
    for name in names:
        known = {printable(key): printable(str(value), 160) for key, value in panel[name].items()}
        checkpoint = known.pop("checkpoint", "not recorded")
        rows.append(
            (printable(name), checkpoint, _details(known), name in summary["config"]["teachers"])
        )

    return rows


def _details(known: Mapping[str, str]) -> str:
    return _DIGEST.sub(
        r"\1", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in known.items())
    )
