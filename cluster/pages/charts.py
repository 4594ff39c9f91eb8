"""The charts of the pages: small functions that turn numbers into inline SVG.

Every chart is drawn 420 units wide and scaled by the browser: side by side on a desktop, one a line
on a phone, with readable text in both. Colors are classes of the page's style sheet, so one drawing
serves light, dark and paper. Each is an image with a title and a description for those who cannot
see it. matplotlib and the JavaScript libraries were left out: the first is a large dependency for
five shapes and knows no dark mode; the others need scripts, which the page forbids.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 420
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 46, 48  # margins of charts with two axes
PLOT_HEIGHT = 190
ROW_TEXT, BAR, BAR_GAP, ROW_GAP = 20, 11, 3, 13


@dataclass(frozen=True, slots=True, kw_only=True)
class Caption:
    """What a chart is called.

    `name` is an id that is unique on the page; `description` is for a person who cannot see the
    chart.
    """

    name: str
    title: str
    description: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A horizontal bar from `begin` to `end`, as shares of the chart's width.

    `kind` is a class of the style sheet.
    """

    begin: float
    end: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark on a row, at a share of the chart's width."""

    at: float
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a bar chart.

    It has a label, its numbers in words, bars one under the other, and marks over the bars.
    """

    label: str
    value: str
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A vertical line at `at`, in the units of the x axis, with its label."""

    at: float
    label: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A line through (x, share) points, with its label where it ends.

    `band` is the interval around it, as (x, low, high).
    """

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


def row_chart(caption: Caption, rows: Sequence[Row], *, axis_limit: float | None = None) -> Markup:
    """Draw bars under their labels.

    With `axis_limit`, a percent axis from 0 to that share closes the chart.
    """
    parts: list[str] = []
    y = 4.0
    for row in rows:
        parts += _row(row, y)
        y += _row_height(row)

    if axis_limit is not None:
        parts += _percent_axis(axis_limit, y)
        y += 26

    return svg_chart(caption, y, parts)


def histogram(
    caption: Caption,
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    x_label: str,
    y_label: str,
    rules: Sequence[Rule] = (),
    accepted_below: float = math.inf,
) -> Markup:
    """Draw columns over `edges`; those beyond `accepted_below` are muted."""
    ticks = nice_ticks(max(counts, default=0) or 1)
    low, high, top = edges[0], edges[-1], max(ticks[-1], max(counts, default=0))
    parts = _y_axis(ticks, top, [f"{tick:,.0f}" for tick in ticks], y_label)

    for begin, end, count in zip(edges, edges[1:], counts, strict=False):
        x, width = _x(begin, low, high), _x(end, low, high) - _x(begin, low, high)
        height = PLOT_HEIGHT * count / top
        kind = "accepted" if (begin + end) / 2 <= accepted_below else "muted"

        if count:
            parts.append(
                _rect(x + 0.5, TOP + PLOT_HEIGHT - height, max(width - 1, 0.5), height, kind)
            )

    x_ticks = nice_ticks(high)
    parts += _x_axis(
        [(_x(tick, low, high), f"{tick:g}") for tick in x_ticks if low <= tick <= high], x_label
    )
    parts += _rules([(_x(min(max(rule.at, low), high), low, high), rule) for rule in rules])

    return svg_chart(caption, TOP + PLOT_HEIGHT + BOTTOM, parts)


def curve_chart(
    caption: Caption, curves: Sequence[Curve], *, x_label: str, y_label: str, rule: Rule | None
) -> Markup:
    """Draw shares from 0 to 100 % over a positive x on a logarithmic axis."""
    xs = [x for curve in curves for x, _ in curve.points]
    low, high = math.log10(min(xs)), math.log10(max(xs))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    shares = [0, 0.25, 0.5, 0.75, 1.0]
    parts = _y_axis(shares, 1.0, [f"{share * 100:.0f} %" for share in shares], y_label)
    for curve in curves:
        parts += _curve(curve, low, high)

    parts += _x_axis(
        [(_x(math.log10(tick), low, high), f"{tick:g}") for tick in log_ticks(low, high)], x_label
    )
    if rule is not None and rule.at > 0:
        parts += _rules([(_x(min(max(math.log10(rule.at), low), high), low, high), rule)])

    parts += _end_labels(curves)
    return svg_chart(caption, TOP + PLOT_HEIGHT + BOTTOM, parts)


def spark_bars(name: str, shares: Sequence[tuple[str, float]]) -> Markup:
    """Draw seven tiny columns, one for each emotion; the largest stands out."""
    largest = max(share for _, share in shares)
    text = ", ".join(f"{label} {share:.0%}" for label, share in shares)

    columns = "".join(
        _rect(
            index * 8, 22 - 22 * share, 6, max(22 * share, 1), "top" if share == largest else "low"
        )
        for index, (_, share) in enumerate(shares)
    )

    return Markup(  # noqa: S704 (numbers, and text escaped here)
        f'<svg class="spark" viewBox="0 0 54 22" role="img" '
        f'aria-label="{escape(name)}: {escape(text)}">{columns}</svg>'
    )


def nice_ticks(limit: float, wanted: int = 5) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten, from 0 to just beyond `limit`."""
    rough = limit / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(index * step, 10) for index in range(math.ceil(limit / step - 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return ticks of a logarithmic axis from 10^low to 10^high.

    They are 1 and 3 times the powers of ten, or the powers alone where the others would crowd.
    """
    factors = (1, 3) if high - low < 3 else (1,)
    powers = range(math.floor(low), math.ceil(high) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in factors]
    return [tick for tick in ticks if low - 1e-9 <= math.log10(tick) <= high + 1e-9]


def svg_chart(caption: Caption, height: float, parts: Sequence[str]) -> Markup:
    """Wrap the drawing `parts` (safe SVG) as an image with a title and a description."""
    name = escape(caption.name)
    return Markup(  # noqa: S704 (every text in it went through escape)
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(caption.title)}</title>'
        f'<desc id="{name}-desc">{escape(caption.description)}</desc>{"".join(parts)}</svg>'
    )


def _row(row: Row, y: float) -> Iterator[str]:
    yield svg_text(0, y + 13, row.label, "start", "label")
    yield svg_text(WIDTH, y + 13, row.value, "end", "value")
    top = y + ROW_TEXT
    height = len(row.bars) * (BAR + BAR_GAP) - BAR_GAP
    yield _rect(0, top, WIDTH, height, "track")

    for number, bar in enumerate(row.bars):
        width = max((bar.end - bar.begin) * WIDTH, 1.0 if bar.end > bar.begin else 0.0)
        yield _rect(bar.begin * WIDTH, top + number * (BAR + BAR_GAP), width, BAR, bar.kind)

    for mark in row.marks:
        x = 1.5 + mark.at * (WIDTH - 3)
        yield f'<path class="mark {mark.kind}" d="M{x:.1f} {top - 3:.1f}V{top + height + 3:.1f}"/>'


def _row_height(row: Row) -> float:
    return ROW_TEXT + len(row.bars) * (BAR + BAR_GAP) + ROW_GAP


def _percent_axis(limit: float, y: float) -> Iterator[str]:
    ticks = [tick for tick in nice_ticks(limit) if tick <= limit + 1e-9]
    for tick in ticks:
        x = tick / limit * WIDTH
        anchor = "start" if tick == 0 else "end" if x > WIDTH - 8 else "middle"
        yield f'<path class="axis" d="M{x:.1f} {y - 8:.1f}v5"/>'
        yield svg_text(x, y + 10, f"{tick * 100:.0f} %", anchor, "tick")


def _x(value: float, low: float, high: float) -> float:
    return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - share)


def _y_axis(ticks: Sequence[float], top: float, labels: Sequence[str], title: str) -> list[str]:
    parts = [svg_text(0, 12, title, "start", "axis-title")]
    for tick, label in zip(ticks, labels, strict=True):
        y = _y(tick / top)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(svg_text(LEFT - 7, y + 4, label, "end", "tick"))
    return parts


def _x_axis(ticks: Sequence[tuple[float, str]], title: str) -> list[str]:
    base = TOP + PLOT_HEIGHT
    parts = [f'<path class="axis" d="M{LEFT} {base}H{WIDTH - RIGHT}"/>']
    for x, label in ticks:
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(svg_text(x, base + 18, label, "middle", "tick"))
    parts.append(svg_text(WIDTH - RIGHT, base + 40, title, "end", "axis-title"))
    return parts


def _rules(placed: Sequence[tuple[float, Rule]]) -> list[str]:
    """Draw vertical lines, each with its label on a line of its own: labels must not collide."""
    parts = []
    for number, (x, rule) in enumerate(placed):
        y = TOP - 4 - 14 * (len(placed) - 1 - number)
        anchor, shift = ("start", 5) if x < WIDTH / 2 else ("end", -5)
        parts.append(
            f'<path class="rule {rule.kind}" d="M{x:.1f} {y - 10:.1f}V{TOP + PLOT_HEIGHT}"/>'
        )
        parts.append(svg_text(x + shift, y, rule.label, anchor, f"rule-label {rule.kind}"))
    return parts


def _curve(curve: Curve, low: float, high: float) -> Iterator[str]:
    if curve.band:
        upper = [f"{_x(math.log10(x), low, high):.1f} {_y(top):.1f}" for x, _, top in curve.band]
        lower = [
            f"{_x(math.log10(x), low, high):.1f} {_y(bottom):.1f}"
            for x, bottom, _ in reversed(curve.band)
        ]
        yield f'<path class="band {curve.kind}" d="M{"L".join([*upper, *lower])}Z"/>'
    points = [f"{_x(math.log10(x), low, high):.1f} {_y(share):.1f}" for x, share in curve.points]
    yield f'<path class="curve {curve.kind}" d="M{"L".join(points)}"/>'


def _end_labels(curves: Sequence[Curve]) -> Iterator[str]:
    """Write each curve's label at its right end.

    The label of the highest curve is above it, those of the others are below them.
    """
    for number, curve in enumerate(sorted(curves, key=lambda curve: -curve.points[-1][1])):
        y = _y(curve.points[-1][1]) + (-8 if number == 0 else 18)
        yield svg_text(WIDTH - RIGHT - 2, y, curve.label, "end", f"curve-label {curve.kind}")


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect class="{kind}" {place} rx="1"/>'


def svg_text(x: float, y: float, text: str, anchor: str, kind: str) -> str:
    """Return a line of text as SVG, escaped."""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )
