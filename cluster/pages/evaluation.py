"""The page of `emostream evaluate`: figures, confusion, speakers and embeddings.

Everything is drawn from the metrics and from what the model predicted, in one file without scripts.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from markupsafe import Markup

from cluster.pages.charts import Caption, nice_ticks
from cluster.pages.embedding_map import MIN_POINTS, Places, color, shared_value
from cluster.pages.page import confusion_cells, render_page
from cluster.pages.scatter import Axis, Dot, map_chart, scatter_chart
from shards.loading.targets import TargetKind
from shards.samples.keys import printable

TEMPLATE_NAME = "evaluation.html.j2"
NUM_LISTED = 8  # speakers in the table, beginning with the worst recognized
Metrics = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A line of the table of figures; `interval` is empty where there is none."""

    name: str
    meaning: str
    value: str
    interval: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """The embeddings in the colors of one column."""

    column: str
    chart: Markup
    legend: Sequence[tuple[str, str]]


class View(ABC):
    """The way in which the figures of one kind of target are shown."""

    score_name: ClassVar[str]  # of the one number that stands for a speaker
    headline: ClassVar[int]  # the place, in the table of figures, of the one in the page's title

    @abstractmethod
    def figures(self, metrics: Metrics) -> list[Figure]:
        """Return the table of figures."""

    @abstractmethod
    def score(self, figures: Mapping[str, Any]) -> float:
        """Return the number that stands for a speaker, from the speaker's figures."""

    @abstractmethod
    def text(self, score: float) -> str:
        """Format a speaker's score for a table."""

    @abstractmethod
    def level(self, score: float) -> str:
        """Format a speaker's score for an axis."""

    def confusion(self, metrics: Metrics) -> Sequence[object]:
        """Return the confusion matrix, truth by prediction; empty for targets without classes."""
        return ()


class ClassView(View):
    """Accuracy and F1 in percent, and the confusion of classes."""

    score_name = "accuracy"
    headline = 2
    FIGURES = (
        ("ACC", "over all utterances", "accuracy", None),
        ("Macro-F1", "over all utterances", "macro_f1", None),
        ("A-ACC", "mean over speakers", "speaker_accuracy", "speaker_accuracy_std"),
        ("A-F1", "mean over speakers", "speaker_f1", "speaker_f1_std"),
        ("UA", "mean recall over classes", "unweighted_accuracy", None),
        ("WF1", "F1, classes weighed by their number", "weighted_f1", None),
        ("F1 bias", "mean difference of two classes' F1", "f1_bias", None),
    )

    def figures(self, metrics: Metrics) -> list[Figure]:
        scores = metrics["scores"]
        return [
            Figure(
                name=name,
                meaning=meaning,
                value=_with_spread(scores[key], None if std is None else scores[std]),
                interval=_interval(metrics.get("intervals", {}).get(key), self.text),
            )
            for name, meaning, key, std in self.FIGURES
            if key in scores  # metrics of before 2026-11-28 lack some
        ]

    def score(self, figures: Mapping[str, Any]) -> float:
        return float(figures["accuracy"])

    def text(self, score: float) -> str:
        return f"{100 * score:.1f} %"

    def level(self, score: float) -> str:
        return f"{100 * score:.0f} %"

    def confusion(self, metrics: Metrics) -> Sequence[object]:
        return confusion_cells(metrics["names"], metrics["confusion"])


class ValueView(View):
    """Concordance (CCC) of each value; the score of a speaker is the mean over the values."""

    score_name = "CCC"
    headline = 1

    def figures(self, metrics: Metrics) -> list[Figure]:
        scores, nothing = metrics["scores"], [None] * len(metrics["names"])
        intervals = metrics.get("intervals", {})
        overall, over_speakers = (
            intervals.get(key, nothing) for key in ("overall", "over_speakers")
        )
        rows = []
        for place, name in enumerate(metrics["names"]):
            rows.append(
                Figure(
                    name=f"O-CCC {name}",
                    meaning="all utterances",
                    value=f"{scores['overall'][place]:.3f}",
                    interval=_interval(overall[place], self.text),
                )
            )

            value = (
                f"{scores['over_speakers'][place]:.3f} ± {scores['over_speakers_std'][place]:.3f}"
            )
            rows.append(
                Figure(
                    name=f"A-CCC {name}",
                    meaning="mean over speakers",
                    value=value,
                    interval=_interval(over_speakers[place], self.text),
                )
            )

        return rows

    def score(self, figures: Mapping[str, Any]) -> float:
        return float(np.mean(figures["ccc"]))

    def text(self, score: float) -> str:
        return f"{score:.3f}"

    def level(self, score: float) -> str:
        return f"{score:g}"


class RatedView(View):
    """F1 of several classes at once, and how far their probabilities can be believed."""

    score_name = "F1"
    headline = 0
    FIGURES = (
        ("Macro-F1", "mean over classes", "macro_f1", None),
        ("Weighted F1", "F1, classes weighed by their number", "weighted_f1", None),
        ("A-F1", "mean over speakers", "speaker_f1", "speaker_f1_std"),
        ("Brier score", "mean squared error; 0 is best", "brier_score", None),
        ("ECE", "expected calibration error; 0 is best", "calibration_error", None),
    )

    def figures(self, metrics: Metrics) -> list[Figure]:
        scores, intervals = metrics["scores"], metrics["intervals"]
        return [
            Figure(
                name=name,
                meaning=meaning,
                value=self._with_std(scores[key], None if std is None else scores[std]),
                interval=_interval(intervals.get(key), self.text),
            )
            for name, meaning, key, std in self.FIGURES
        ]

    def score(self, figures: Mapping[str, Any]) -> float:
        return float(figures["f1"])

    def text(self, score: float) -> str:
        return f"{score:.3f}"

    def level(self, score: float) -> str:
        return f"{score:g}"

    def _with_std(self, value: float, std: float | None) -> str:
        return self.text(value) if std is None else f"{value:.3f} ± {std:.3f}"


VIEWS: Mapping[TargetKind, View] = {
    "classes": ClassView(),
    "values": ValueView(),
    "ratings": RatedView(),
}


def evaluation_page(
    metrics: Metrics,
    kind: TargetKind,
    places: Places | None,
    columns: Mapping[str, Sequence[str | None]],
    *,
    personalized: bool,
) -> str:
    """Render the page as text.

    `columns` maps each column that the map is colored by to the texts of all utterances.
    """
    view = VIEWS[kind]

    return render_page(
        TEMPLATE_NAME,
        metrics=metrics,
        config=metrics["config"],
        checkpoint=_shown_checkpoint(metrics["config"]["checkpoint"]),
        figures=view.figures(metrics),
        headline=view.headline,
        confusion=view.confusion(metrics),
        groups=_groups(metrics, view),
        speakers=_speaker_chart(metrics, view),
        listed=_worst(metrics, view),
        score_name=view.score_name,
        maps=[]
        if places is None
        else [_map(places, name, texts) for name, texts in columns.items()],
        personalized=personalized,
        fewest=MIN_POINTS,
    )


def _groups(
    metrics: Metrics, view: View
) -> list[tuple[str, list[tuple[str, int, int, list[Figure]]]]]:
    """For each field of --groups its name and its lines: value, numbers and figures."""
    return [
        (
            printable(field, 80),
            [
                (
                    printable(value, 80),
                    group["number"],
                    group["num_speakers"],
                    view.figures({**group, "names": metrics["names"]}),
                )
                for value, group in groups.items()
            ],
        )
        for field, groups in metrics.get("groups", {}).items()
    ]


def _interval(ends: Sequence[float | None] | None, text: Callable[[float], str]) -> str:
    """The interval for people; empty where it is not known."""
    if ends is None or ends[0] is None or ends[1] is None:
        return ""
    return f"{text(ends[0])} to {text(ends[1])}"


def _shown_checkpoint(given: str | Sequence[str]) -> str:
    """The model, or the first of several with their number."""
    if isinstance(given, str) or len(given) == 1:
        return given if isinstance(given, str) else given[0]
    return f"{given[0]} and {len(given) - 1} more"


def _with_spread(share: float, std: float | None) -> str:
    return f"{100 * share:.1f} %" if std is None else f"{100 * share:.1f} ± {100 * std:.1f} %"


def _speaker_chart(metrics: Metrics, view: View) -> Markup:
    """Draw a dot for each speaker: how many utterances, and how well they are recognized."""
    name = view.score_name
    dots = []
    for speaker, figures in metrics["per_speaker"].items():
        score, number = view.score(figures), figures["number"]
        text = (
            f"{printable(speaker)}: {name} {score:.3f} of {number} "
            f"utterance{'s' if number > 1 else ''}"
        )
        dots.append(Dot(x=number, y=score, name=text, color="var(--accent)"))

    counts = nice_ticks(max(dot.x for dot in dots))
    floor = min(0.0, np.floor(2 * min(dot.y for dot in dots)) / 2)
    levels = np.arange(floor, 1.01, 0.25 if floor == 0 else 0.5).tolist()
    mean = float(np.mean([dot.y for dot in dots]))
    description = (
        f"{len(dots)} speakers; mean {mean:.3f}, from {min(d.y for d in dots):.3f} to "
        f"{max(d.y for d in dots):.3f}"
    )
    return scatter_chart(
        Caption(name="speakers", title=f"{name} of every speaker", description=description),
        dots,
        Axis(
            label="utterances of the speaker",
            ticks=counts,
            texts=[f"{count:,.0f}" for count in counts],
        ),
        Axis(
            label=f"{name} of the speaker",
            ticks=levels,
            texts=[view.level(level) for level in levels],
        ),
        mean=mean,
    )


def _worst(metrics: Metrics, view: View) -> list[tuple[str, int, str]]:
    """Return (name, utterances, score) of the speakers who are recognized worst."""
    ordered = sorted(
        metrics["per_speaker"].items(), key=lambda item: (view.score(item[1]), item[0])
    )
    return [
        (printable(speaker), int(figures["number"]), view.text(view.score(figures)))
        for speaker, figures in ordered[:NUM_LISTED]
    ]


def _map(places: Places, name: str, texts: Sequence[str | None]) -> Map:
    values = [shared_value([texts[row] for row in rows.tolist()]) for rows in places.rows]
    found = color([None if value is None else printable(value) for value in values])

    dots = [
        Dot(x=float(x), y=float(y), name=f"{printable(name)}: {text}", color=shade)
        for (x, y), text, shade in zip(places.points, found.texts, found.colors, strict=True)
    ]

    caption = Caption(
        name=f"map-{''.join(character if character.isalnum() else '-' for character in name)}",
        title=f"Speaker embeddings by {printable(name)}",
        description=f"t-SNE of {len(dots)} points, colored by {printable(name)}",
    )

    return Map(column=printable(name), chart=map_chart(caption, dots), legend=found.legend)
