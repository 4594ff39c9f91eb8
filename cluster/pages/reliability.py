"""The reliability diagram: how often an answer is true, against its probability.

On the diagonal, what is answered with 30 % is true in 30 % of the cases. The line is that of all
emotions together, and each dot is one bin of one emotion. Bars, as in Guo et al. (2017), were left
out: those of several emotions would hide each other.
"""

from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup, escape

from cluster.pages.charts import LEFT, RIGHT, WIDTH, Caption, svg_chart, svg_text

TOP, BOTTOM, SIDE = 28, 46, WIDTH - LEFT - RIGHT
TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
# A dot's area grows with its answers, up to this radius for the fullest bin of its emotion.
SMALLEST, LARGEST = 2.0, 6.0
NUM_COLORS = 10  # of the style sheet

Points = Sequence[Mapping[str, float]]


def reliability_chart(overall: Points, emotions: Mapping[str, Points]) -> Markup:
    """Draw the points of all answers as a line, and those of each emotion as dots."""
    parts = [*_axes(), f'<path class="rule reference" d="M{_x(0)} {_y(0)}L{_x(1)} {_y(1)}"/>']
    line = "L".join(f"{_x(one['probability'])} {_y(one['true'])}" for one in overall)
    parts.append(f'<path class="curve here" d="M{line}"/>')

    for (name, points), color in zip(emotions.items(), colors(len(emotions)), strict=True):
        parts += _dots(name, points, color)

    caption = Caption(
        name="reliability",
        title="Reliability diagram",
        description="; ".join(
            f"answered with {one['probability']:.0%} on average, true in {one['true']:.0%} of "
            f"{one['number']:,.0f}"
            for one in overall
        ),
    )
    return svg_chart(caption, TOP + SIDE + BOTTOM, parts)


def colors(number: int) -> list[str]:
    """The colors of so many emotions; they repeat when there are more than colors."""
    return [f"var(--name-{place % NUM_COLORS})" for place in range(number)]


def _axes() -> Iterator[str]:
    yield svg_text(0, 12, "share that is true", "start", "axis-title")
    for tick in TICKS:
        yield f'<path class="grid" d="M{LEFT} {_y(tick)}H{WIDTH - RIGHT}"/>'
        yield svg_text(LEFT - 7, TOP + SIDE * (1 - tick) + 4, f"{tick:.0%}", "end", "tick")
        yield f'<path class="axis" d="M{_x(tick)} {TOP + SIDE}v4"/>'
        anchor = "end" if tick == 1 else "middle"
        yield svg_text(LEFT + SIDE * tick, TOP + SIDE + 18, f"{tick:.0%}", anchor, "tick")

    yield svg_text(WIDTH - RIGHT, TOP + SIDE + 40, "probability", "end", "axis-title")


def _dots(name: str, points: Points, color: str) -> Iterator[str]:
    most = max((one["number"] for one in points), default=1)
    for one in points:
        radius = SMALLEST + (LARGEST - SMALLEST) * (one["number"] / most) ** 0.5
        words = (
            f"{name}: {one['number']:,.0f} answers of {one['probability']:.1%} on average, true in "
            f"{one['true']:.1%}"
        )
        yield (
            f'<circle cx="{_x(one["probability"])}" cy="{_y(one["true"])}" r="{radius:.1f}" '
            f'style="fill:{color}"><title>{escape(words)}</title></circle>'
        )


def _x(share: float) -> str:
    return f"{LEFT + SIDE * share:.1f}"


def _y(share: float) -> str:
    return f"{TOP + SIDE * (1 - share):.1f}"
