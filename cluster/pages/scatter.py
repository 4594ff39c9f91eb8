"""Points on a plane as inline SVG, in the same frame as `cluster/pages/charts.py`."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from cluster.pages.charts import LEFT, RIGHT, WIDTH, Caption, svg_chart, svg_text

TOP, BOTTOM, HEIGHT = 28, 46, 230
MAP_HEIGHT, MARGIN = 380, 10
RADIUS = 3.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A point, whose `name` appears when somebody points at it.

    `color` is a variable of the style sheet or any CSS color.
    """

    x: float
    y: float
    name: str
    color: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """An axis from the first tick to the last; `texts` stand beside the ticks."""

    label: str
    ticks: Sequence[float]
    texts: Sequence[str]

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, from 0 to 1."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def scatter_chart(
    caption: Caption, dots: Sequence[Dot], x_axis: Axis, y_axis: Axis, *, mean: float
) -> Markup:
    """Draw dots over two axes, and a line across at the `mean` of their y."""
    base = TOP + HEIGHT
    parts = [svg_text(0, 12, y_axis.label, "start", "axis-title")]
    for tick, text in zip(y_axis.ticks, y_axis.texts, strict=True):
        y = base - HEIGHT * y_axis.share(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(svg_text(LEFT - 7, y + 4, text, "end", "tick"))

    for tick, text in zip(x_axis.ticks, x_axis.texts, strict=True):
        x = LEFT + (WIDTH - LEFT - RIGHT) * x_axis.share(tick)
        parts.append(f'<path class="axis" d="M{x:.1f} {base}v4"/>')
        parts.append(svg_text(x, base + 18, text, "middle", "tick"))
    parts.append(svg_text(WIDTH - RIGHT, base + 40, x_axis.label, "end", "axis-title"))

    level = base - HEIGHT * y_axis.share(mean)
    parts.append(f'<path class="rule reference" d="M{LEFT} {level:.1f}H{WIDTH - RIGHT}"/>')

    width = WIDTH - LEFT - RIGHT
    parts += [
        _dot(dot, LEFT + width * x_axis.share(dot.x), base - HEIGHT * y_axis.share(dot.y))
        for dot in dots
    ]

    return svg_chart(caption, base + BOTTOM, parts)


def map_chart(caption: Caption, dots: Sequence[Dot]) -> Markup:
    """Draw dots of which only the distances mean something: no axes, one scale both ways."""
    xs, ys = [dot.x for dot in dots], [dot.y for dot in dots]
    extent = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    scale = (min(WIDTH, MAP_HEIGHT) - 2 * MARGIN) / extent

    left = (WIDTH - scale * (max(xs) - min(xs))) / 2
    top = (MAP_HEIGHT - scale * (max(ys) - min(ys))) / 2

    placed = [
        _dot(dot, left + scale * (dot.x - min(xs)), top + scale * (dot.y - min(ys))) for dot in dots
    ]
    return svg_chart(caption, MAP_HEIGHT, placed)


def _dot(dot: Dot, x: float, y: float) -> str:
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" style="fill:{escape(dot.color)}">'
        f"<title>{escape(dot.name)}</title></circle>"
    )
