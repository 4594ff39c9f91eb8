"""The page of `emostream evaluate`: tables of the figures, and pictures of confusion, speakers and embeddings.

Everything is drawn from the metrics and from what the model predicted, in one file without scripts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from cluster.pages.charts import Caption, nice_ticks
from cluster.pages.embedding_map import MIN_POINTS, Places, colour, shared_value
from cluster.pages.page import confusion_cells, render_page
from cluster.pages.scatter import Axis, Dot, map_chart, scatter_chart
from shards.samples.keys import printable

TEMPLATE_NAME = "evaluation.html.j2"
NUM_LISTED = 8  # speakers the table names, from the worst recognised on
CLASS_FIGURES = (
    ("ACC", "over all utterances", "accuracy", None),
    ("Macro-F1", "over all utterances", "macro_f1", None),
    ("A-ACC", "mean over speakers", "speaker_accuracy", "speaker_accuracy_std"),
    ("A-F1", "mean over speakers", "speaker_f1", "speaker_f1_std"),
)

Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A line of the table of figures."""

    name: str
    meaning: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """The embeddings in the colours of one column."""

    column: str
    chart: Markup
    legend: Sequence[tuple[str, str]]


def evaluation_page(
    metrics: Metrics, places: Places | None, columns: Mapping[str, Sequence[str | None]], *, personalised: bool
) -> str:
    """The page as text. `columns` holds the texts of every utterance, by name, that the map is coloured by."""
    is_values = "overall" in metrics["scores"]
    return render_page(
        TEMPLATE_NAME,
        metrics=metrics,
        config=metrics["config"],
        figures=_value_figures(metrics) if is_values else _class_figures(metrics["scores"]),
        confusion=() if is_values else confusion_cells(metrics["names"], metrics["confusion"]),
        speakers=_speaker_chart(metrics, is_values=is_values),
        listed=_worst(metrics, is_values=is_values),
        score_name="CCC" if is_values else "accuracy",
        maps=[] if places is None else [_map(places, name, texts) for name, texts in columns.items()],
        personalised=personalised,
        fewest=MIN_POINTS,
    )


def _class_figures(scores: Mapping[str, float]) -> list[Figure]:
    return [
        Figure(name=name, meaning=meaning, value=_with_spread(scores[key], None if std is None else scores[std]))
        for name, meaning, key, std in CLASS_FIGURES
    ]


def _value_figures(metrics: Metrics) -> list[Figure]:
    scores = metrics["scores"]
    rows = []
    for place, name in enumerate(metrics["names"]):
        rows.append(Figure(name=f"O-CCC {name}", meaning="all utterances", value=f"{scores['overall'][place]:.3f}"))
        value = f"{scores['over_speakers'][place]:.3f} ± {scores['over_speakers_std'][place]:.3f}"
        rows.append(Figure(name=f"A-CCC {name}", meaning="mean over speakers", value=value))
    return rows


def _with_spread(share: float, std: float | None) -> str:
    return f"{100 * share:.1f} %" if std is None else f"{100 * share:.1f} ± {100 * std:.1f} %"


def _score_of(figures: Mapping[str, Any], *, is_values: bool) -> float:
    """One number for a speaker: accuracy, or the mean CCC of the values."""
    return float(np.mean(figures["ccc"])) if is_values else float(figures["accuracy"])


def _speaker_chart(metrics: Metrics, *, is_values: bool) -> Markup:
    name = "CCC" if is_values else "accuracy"
    dots = []
    for speaker, figures in metrics["per_speaker"].items():
        score = _score_of(figures, is_values=is_values)
        number = figures["number"]
        text = f"{printable(speaker)}: {name} {score:.3f} of {number} utterance{'s' if number > 1 else ''}"
        dots.append(Dot(x=number, y=score, name=text, colour="var(--accent)"))
    counts = nice_ticks(max(dot.x for dot in dots))
    floor = min(0.0, np.floor(2 * min(dot.y for dot in dots)) / 2)
    levels = np.arange(floor, 1.01, 0.25 if floor == 0 else 0.5).tolist()
    texts = [f"{level:g}" if is_values else f"{100 * level:.0f} %" for level in levels]
    mean = float(np.mean([dot.y for dot in dots]))
    description = (
        f"{len(dots)} speakers; mean {mean:.3f}, from {min(d.y for d in dots):.3f} to {max(d.y for d in dots):.3f}"
    )
    return scatter_chart(
        Caption(name="speakers", title=f"{name} of every speaker", description=description),
        dots,
        Axis(label="utterances of the speaker", ticks=counts, texts=[f"{count:,.0f}" for count in counts]),
        Axis(label=f"{name} of the speaker", ticks=levels, texts=texts),
        mean=mean,
    )


def _worst(metrics: Metrics, *, is_values: bool) -> list[tuple[str, int, str]]:
    ordered = sorted(
        metrics["per_speaker"].items(), key=lambda item: (_score_of(item[1], is_values=is_values), item[0])
    )
    shown = []
    for speaker, figures in ordered[:NUM_LISTED]:
        score = _score_of(figures, is_values=is_values)
        text = f"{score:.3f}" if is_values else f"{100 * score:.1f} %"
        shown.append((printable(speaker), int(figures["number"]), text))
    return shown


def _map(places: Places, name: str, texts: Sequence[str | None]) -> Map:
    values = [shared_value([texts[row] for row in rows.tolist()]) for rows in places.rows]
    found = colour([None if value is None else printable(value) for value in values])
    dots = [
        Dot(x=float(x), y=float(y), name=f"{printable(name)}: {text}", colour=shade)
        for (x, y), text, shade in zip(places.points, found.texts, found.colours, strict=True)
    ]
    caption = Caption(
        name=f"map-{''.join(character if character.isalnum() else '-' for character in name)}",
        title=f"Speaker embeddings by {printable(name)}",
        description=f"t-SNE of {len(dots)} points, coloured by {printable(name)}",
    )
    return Map(column=printable(name), chart=map_chart(caption, dots), legend=found.legend)
