"""What the report shows, from summary.json: the figures, sentences and chart of each section.

Everything here is a pure function of the summary, so that a section can be checked without a page.
A section is None when the selection lacks its numbers (one teacher, no ground truth, nothing kept);
the template then says why.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cluster.pages.charts import (
    Bar,
    Caption,
    Curve,
    Mark,
    Row,
    Rule,
    curve_chart,
    histogram,
    row_chart,
)
from cluster.pages.page import ConfusionRow, confusion_cells, percent, share_of
from shards.emotions import EMOTIONS
from shards.samples.keys import printable
from shards.tables.predictions import MODALITIES

Summary = Mapping[str, Any]

# Utterances by class in EmoCeleb (setpeer-emoceleb, Table II), and the mean Gini coefficient of
# EmoCeleb-A (Figure 4).
PUBLISHED_COUNTS: Mapping[str, Mapping[str, int]] = {
    "EmoCeleb-A": {"neutral": 45_288, "anger": 3_682, "happiness": 21_466, "surprise": 3_664},
    "EmoCeleb-V": {"neutral": 39_774, "anger": 6_909, "happiness": 19_168, "surprise": 9_259},
}
PUBLISHED_GINI = 0.51
# The first digits of a digest are enough to tell two digests apart.
_DIGEST = re.compile(r"\b((?:sha256:)?[0-9a-f]{12})[0-9a-f]{52}\b")
MINUS = "\N{MINUS SIGN}"

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


def flow_chart(summary: Summary) -> Markup:
    """Draw the way from everything read to what is kept, one loss after the other."""
    total = summary["num_utterances"]
    losses = ordered_losses(summary["rejected"])
    rows = [
        Row(
            label="read",
            value=f"{total:,}",
            bars=(Bar(begin=0, end=float(total > 0), kind="muted"),),
        )
    ]

    left = total
    for label, count in losses:
        span = Bar(begin=share_of(left - count, total), end=share_of(left, total), kind="lost")
        rows.append(
            Row(
                label=label,
                value=f"{MINUS}{count:,} ({percent(share_of(count, total))})",
                bars=(span,),
            )
        )
        left -= count

    value = f"{left:,} ({percent(share_of(left, total))})"
    rows.append(
        Row(
            label="kept",
            value=value,
            bars=(Bar(begin=0, end=share_of(left, total), kind="accepted"),),
        )
    )

    lost = "; ".join(f"{label} {count:,}" for label, count in losses) or "nothing"
    caption = Caption(
        name="flow",
        title="From what was read to what was kept",
        description=f"{total:,} utterances read; lost: {lost}; {left:,} kept.",
    )

    return row_chart(caption, rows)


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


def balance_chart(summary: Summary) -> Markup:
    """Draw the shares of the classes before and after; marks show the published corpora."""
    before, after = summary["classes"]["counts_before"], summary["classes"]["counts"]
    num_before, num_after = sum(before.values()), sum(after.values())
    shares = {
        name: (share_of(before[name], num_before), share_of(after.get(name, 0), num_after))
        for name in EMOTIONS
    }

    published = {name: _published_shares(name) for name in after}
    limit = max(
        [
            0.1,
            *(max(pair) for pair in shares.values()),
            *(s for marks in published.values() for s in marks),
        ]
    )
    # Why 1.08: the longest bar must not touch the end of the axis.
    limit = min(1.0, limit * 1.08)

    rows = [
        Row(
            label=name,
            value=f"{before[name]:,} ({percent(first)}) → "
            + (f"{after[name]:,} ({percent(second)})" if name in after else "left out"),
            bars=(
                Bar(begin=0, end=first / limit, kind="muted"),
                Bar(begin=0, end=second / limit, kind="accepted"),
            ),
            marks=tuple(
                Mark(at=share / limit, kind=kind)
                for share, kind in zip(published.get(name, ()), ("first", "second"), strict=False)
            ),
        )
        for name, (first, second) in shares.items()
    ]

    text = "; ".join(
        f"{name} {percent(first)} before, {percent(second)} after"
        for name, (first, second) in shares.items()
    )
    caption = Caption(
        name="balance", title="Class balance before and after the selection", description=text
    )

    return row_chart(caption, rows, axis_limit=limit)


def _published_shares(emotion: str) -> tuple[float, ...]:
    return tuple(
        counts[emotion] / sum(counts.values())
        for counts in PUBLISHED_COUNTS.values()
        if emotion in counts
    )


def gini_chart(summary: Summary) -> Markup | None:
    """Draw how uneven the classes of each kept speaker are."""
    if summary["gini"] is None:
        return None

    mean, shape = summary["gini"]["mean"], summary["gini"]["histogram"]
    caption = Caption(
        name="gini",
        title="Gini coefficient of each speaker's classes",
        description=f"Histogram over {sum(shape['counts']):,} speakers; mean {mean:.2f}; "
        f"EmoCeleb-A {PUBLISHED_GINI}.",
    )

    rules = (
        Rule(at=PUBLISHED_GINI, label=f"EmoCeleb-A {PUBLISHED_GINI:.2f}", kind="reference"),
        Rule(at=mean, label=f"mean here {mean:.2f}", kind="here"),
    )

    return histogram(
        caption,
        shape["edges"],
        shape["counts"],
        x_label="Gini coefficient",
        y_label="speakers",
        rules=rules,
    )


def agreement_chart(summary: Summary) -> Markup | None:
    """Draw how far apart the teachers are, and where the threshold is."""
    found = summary["agreement"]
    if found is None:
        return None

    edges, counts = found["histogram"]["edges"], list(found["histogram"]["counts"])
    # Why: the summary counts the utterances beyond the end in the last column, which would look
    # like a peak.
    counts[-1] -= found["num_beyond"]

    threshold = found["threshold"]
    rules = (
        ()
        if threshold is None
        else (Rule(at=threshold, label=f"threshold {threshold:.3g}", kind="here"),)
    )

    inside = sum(
        n
        for end, n in zip(edges[1:], counts, strict=True)
        if threshold is None or end <= threshold + 1e-9
    )

    caption = Caption(
        name="agreement",
        title="Distance between the teachers",
        description=f"Histogram of {sum(counts):,} utterances, about {inside:,} within the "
        f"threshold; {found['num_beyond']:,} more lie beyond {edges[-1]:.2g} nats.",
    )

    return histogram(
        caption,
        edges,
        counts,
        x_label=f"{DISTANCE_NAMES[found['distance']]} (nats)",
        y_label="utterances",
        rules=rules,
        accepted_below=float("inf") if threshold is None else threshold,
    )


def retention_chart(summary: Summary) -> Markup | None:
    """Draw how much every threshold would keep, and how right it would be."""
    points = [
        point
        for point in summary["retention"]
        if point["threshold"] is not None and point["threshold"] > 0
    ]
    if len(points) < 2:
        return None

    curves = [
        Curve(label="kept", kind="here", points=tuple((p["threshold"], p["share"]) for p in points))
    ]

    scored = [
        (p["threshold"], p["accuracy"])
        for p in points
        if p["accuracy"] and p["accuracy"]["value"] is not None
    ]
    if len(scored) > 1:
        band = tuple(
            (t, score["low"], score["high"]) for t, score in scored if score["low"] is not None
        )
        right = tuple((t, score["value"]) for t, score in scored)
        curves.append(Curve(label="right", kind="reference", points=right, band=band))

    used = (summary["agreement"] or {}).get("threshold")
    first, last = points[0], points[-1]
    text = (
        f"Kept {percent(first['share'])} at {first['threshold']:g}, {percent(last['share'])} at "
        f"{last['threshold']:g}"
    )
    if len(scored) > 1:
        text += (
            f" nats; accuracy goes from {percent(scored[0][1]['value'])} to "
            f"{percent(scored[-1][1]['value'])}"
        )

    caption = Caption(
        name="retention", title="What other thresholds would keep", description=f"{text}."
    )
    rule = None if used is None else Rule(at=used, label=f"threshold {used:.3g}", kind="here")

    return curve_chart(
        caption,
        curves,
        x_label="threshold (nats, logarithmic)",
        y_label="share of utterances",
        rule=rule,
    )


def quality_scores(summary: Summary) -> tuple[Score, ...]:
    """Return the scores of each teacher, of all teachers averaged, and of what was kept."""
    return tuple(
        Score(
            name=name,
            num_utterances=scores["n"],
            accuracy=interval(scores["accuracy"]),
            macro_f1=interval(scores["macro_f1"]),
        )
        for name, scores in _scored(summary)
    )


def quality_chart(summary: Summary) -> Markup | None:
    """Draw each accuracy with its interval, one line for each way of labeling."""
    rows = []
    for name, scores in _scored(summary):
        accuracy = scores["accuracy"]
        if accuracy["value"] is None:
            continue

        low, high = (
            accuracy["value"] if accuracy[end] is None else accuracy[end] for end in ("low", "high")
        )
        span = Bar(begin=low, end=high, kind="accepted" if name == "kept" else "interval")
        mark = Mark(at=accuracy["value"], kind="dot")
        rows.append(Row(label=name, value=interval(accuracy), bars=(span,), marks=(mark,)))

    if not rows:
        return None

    text = "; ".join(f"{row.label} {row.value}" for row in rows)
    caption = Caption(
        name="quality", title="Accuracy of the labels, with 95 % intervals", description=text
    )
    return row_chart(caption, rows, axis_limit=1.0)


def _scored(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
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
