"""The chart of gain against size: what methods win over a baseline, as a picture of its own.

It is a file that a browser or a paper shows, so its style stands within it; it follows the reader's
light or dark mode. Sizes are on a logarithmic axis with a tick at each of them; what has no number
(all there is) stands at the end.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cluster.pages.charts import (
    BOTTOM,
    LEFT,
    PLOT_HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Caption,
    nice_ticks,
    svg_chart,
    svg_text,
)

_COLORS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#009988")
_DASHES = ("", "6 4", "2 3")
_LINE = 18  # the height of a line of the legend
_END = 1.6  # how much further than the largest size "all" stands, as a factor

_STYLE = """
svg { background: #fff; color: #1c2024; font: 13px system-ui, sans-serif; }
text { fill: #5a6169; } path { fill: none; } .grid { stroke: #dcdcd6; } .axis { stroke: #5a6169; }
.zero { stroke: #1c2024; stroke-width: 1.5; }
.gain { stroke-width: 2.5; } .reach { stroke-width: 1; }
@media (prefers-color-scheme: dark) {
  svg { background: #1d2125; } text { fill: #a8b0b7; } .grid { stroke: #353b41; }
  .axis { stroke: #a8b0b7; } .zero { stroke: #eceeef; }
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """A method's gain at one size: None for all there is. `low` and `high` end its interval."""

    size: float | None
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GainCurve:
    """What a method gains, at one or several sizes."""

    label: str
    gains: tuple[Gain, ...]


def gain_chart(
    caption: Caption, curves: Sequence[GainCurve], *, x_label: str, y_label: str
) -> Markup:
    """Draw gains, in the units of `y_label`, against positive sizes; returns a whole SVG file.

    Raises ValueError for a size that is not above 0.
    """
    sizes = {gain.size for curve in curves for gain in curve.gains}
    places = _places(sizes)
    ticks, low, high = _gain_axis(curves)

    parts = list(_axes(places, ticks, low, high, x_label, y_label))
    bottom = TOP + PLOT_HEIGHT + BOTTOM
    for number, curve in enumerate(curves):
        parts += _curve(curve, number, places, low, high)
        parts += _legend(curve.label, number, bottom + number * _LINE)

    drawn = svg_chart(caption, bottom + len(curves) * _LINE + 8, parts)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
    styled = drawn.replace("<svg ", Markup(head), 1)  # noqa: S704 (our own text)
    return styled.replace(">", Markup(f"><style>{_STYLE}</style>"), 1)  # noqa: S704 (our own text)


def _places(sizes: set[float | None]) -> dict[float | None, float]:
    """The x of every size."""
    numbers = sorted(size for size in sizes if size is not None)
    if numbers and numbers[0] <= 0:
        raise ValueError(f"got the sizes {numbers}, expected all above 0")

    at: dict[float | None, float] = {size: math.log10(size) for size in numbers}
    if None in sizes:
        at[None] = max(at.values(), default=0.0) + math.log10(_END)
    low, high = min(at.values()), max(at.values())
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)

    inner = WIDTH - LEFT - RIGHT - 24  # curves keep off the edges
    return {size: LEFT + 12 + (value - low) / (high - low) * inner for size, value in at.items()}


def _gain_axis(curves: Sequence[GainCurve]) -> tuple[list[float], float, float]:
    """Ticks that hold all gains, their intervals and 0, and the ends of the axis."""
    ends = [
        end
        for curve in curves
        for gain in curve.gains
        for end in (gain.value, gain.low, gain.high)
        if end is not None
    ]
    top, below = max([*ends, 0.0]), max([*(-end for end in ends), 0.0])
    step = nice_ticks(max(top + below, 1e-9))[1]

    first, last = -math.ceil(below / step - 1e-9), math.ceil(top / step - 1e-9)
    ticks = [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]
    return ticks, ticks[0], ticks[-1]


def _y(value: float, low: float, high: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - (value - low) / (high - low))


def _axes(
    places: dict[float | None, float],
    ticks: Sequence[float],
    low: float,
    high: float,
    x_label: str,
    y_label: str,
) -> Iterator[str]:
    yield svg_text(0, 14, y_label, "start", "axis-title")
    for tick in ticks:
        y = _y(tick, low, high)
        yield f'<path class="{"grid" if tick else "zero"}" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        yield svg_text(LEFT - 7, y + 4, f"{tick:+g}" if tick else "0", "end", "tick")

    base = TOP + PLOT_HEIGHT
    for size, x in places.items():
        yield f'<path class="axis" d="M{x:.1f} {base}v4"/>'
        label = "all" if size is None else f"{size:,.12g}"
        yield svg_text(x, base + 18, label, "middle", "tick")
    yield svg_text(WIDTH - RIGHT, base + 38, x_label, "end", "axis-title")


def _curve(
    curve: GainCurve, number: int, places: dict[float | None, float], low: float, high: float
) -> Iterator[str]:
    pen = _pen(number)
    points = sorted((places[gain.size], gain) for gain in curve.gains)
    # Intervals of several methods at one size would hide each other.
    shift = 3 * (number - 1)
    for x, gain in points:
        if gain.low is not None and gain.high is not None:
            ends = f"{_y(gain.low, low, high):.1f}V{_y(gain.high, low, high):.1f}"
            yield f'<path class="reach" {pen} d="M{x + shift:.1f} {ends}"/>'
        center = f'cx="{x + shift:.1f}" cy="{_y(gain.value, low, high):.1f}"'
        yield f'<circle {center} r="3" {_fill(number)}/>'

    line = [f"{x + shift:.1f} {_y(gain.value, low, high):.1f}" for x, gain in points]
    yield f'<path class="gain" {pen} d="M{"L".join(line)}"/>'


def _legend(label: str, number: int, y: float) -> Iterator[str]:
    yield f'<path class="gain" {_pen(number)} d="M{LEFT} {y:.1f}h28"/>'
    yield svg_text(LEFT + 36, y + 4, label, "start", "label")


def _pen(number: int) -> str:
    """Color and dashes: both together tell some twenty curves apart."""
    dashes = _DASHES[number // len(_COLORS) % len(_DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{_COLORS[number % len(_COLORS)]}"{dashed}'


def _fill(number: int) -> str:
    return f'fill="{_COLORS[number % len(_COLORS)]}"'
