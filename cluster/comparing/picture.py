"""A table of two axes as a picture: gain against size, the figure of the papers."""

from cluster.comparing.pivot import Pivot, PivotCell
from cluster.comparing.table import scale_of
from cluster.pages.charts import Caption
from cluster.pages.gain_chart import Gain, GainCurve, gain_chart
from shards.config import ConfigError

_X_LABELS = {
    "data.num_utterances": "training utterances",
    "data.num_speakers": "training speakers",
}


def draw_gains(pivot: Pivot) -> str:
    """What each row gains over the baseline in the table's first figure, as an SVG file.

    Raises ConfigError when the columns are no sizes, or when nothing has a gain.
    """
    sizes = pivot.columns.numbers
    keys = ", ".join(pivot.columns.keys)
    if sizes is None or any(size is not None and size <= 0 for size in sizes):
        raise ConfigError(
            f"--picture: got the columns {keys or 'none'}, expected one option with numbers above "
            "0, such as data.num_utterances"
        )

    figure, table = next(iter(pivot.figures.items()))
    scale, _ = scale_of([figure])
    columns = list(zip(sizes, pivot.columns.labels.values(), strict=True))
    curves = [
        GainCurve(label=row, gains=gains)
        for row, cells in table.items()
        if (
            gains := tuple(
                _gain(size, cells[column], scale)
                for size, column in columns
                if column in cells and cells[column].gain is not None
            )
        )
    ]
    if not curves:
        raise ConfigError(
            f"--picture: no row shares a seed with the baseline {pivot.baseline}, so that nothing "
            "has a gain; evaluate runs of the same engine.seed and data.subset_seed"
        )

    unit = "percentage points" if scale == 100 else "units"
    caption = Caption(
        name="gain",
        title=f"Gain in {figure} over {pivot.baseline}",
        description="; ".join(
            f"{curve.label}: " + ", ".join(f"{gain.value:+.3g}" for gain in curve.gains)
            for curve in curves
        ),
    )
    return str(
        gain_chart(
            caption,
            curves,
            x_label=_X_LABELS.get(keys, keys),
            y_label=f"gain in {figure} over {pivot.baseline}, {unit}",
        )
    )


def _gain(size: float | None, one: PivotCell, scale: int) -> Gain:
    low, high = (None, None) if one.gain_interval is None else one.gain_interval
    return Gain(
        size=size,
        value=scale * (one.gain or 0.0),
        low=None if low is None else scale * low,
        high=None if high is None else scale * high,
    )
