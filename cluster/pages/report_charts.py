"""The charts of a selection report, from summary.json.

Each is a pure function of the summary. A chart whose numbers the selection does not have is None,
and the template says why.
"""

from collections.abc import Mapping

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
from cluster.pages.page import percent, share_of
from cluster.pages.report_sections import (
    DISTANCE_NAMES,
    Summary,
    interval,
    ordered_losses,
    scored,
)
from shards.emotions import EMOTIONS

# Utterances by class in EmoCeleb (setpeer-emoceleb, Table II), and the mean Gini coefficient of
# EmoCeleb-A (Figure 4).
PUBLISHED_COUNTS: Mapping[str, Mapping[str, int]] = {
    "EmoCeleb-A": {"neutral": 45_288, "anger": 3_682, "happiness": 21_466, "surprise": 3_664},
    "EmoCeleb-V": {"neutral": 39_774, "anger": 6_909, "happiness": 19_168, "surprise": 9_259},
}
PUBLISHED_GINI = 0.51
MINUS = "\N{MINUS SIGN}"


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


def quality_chart(summary: Summary) -> Markup | None:
    """Draw each accuracy with its interval, one line for each way of labeling."""
    rows = []
    for name, scores in scored(summary):
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
