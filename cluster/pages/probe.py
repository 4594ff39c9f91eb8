"""The page of `emostream probe`: tables of methods as in emotion2vec, folds, confusion and maps.

The rows of a table are methods, its columns WA, UA and WF1 (Tables 2, 3 and 8 to 11), and the other
figures behind them. Methods that were tested on other utterances or in other folds have a table of
their own: figures of two protocols do not stand below each other. Figures that were chosen on the
tested utterances have a star.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from cluster.pages.charts import Caption
from cluster.pages.embedding_map import MIN_POINTS, color
from cluster.pages.fairness import emotion_part
from cluster.pages.page import confusion_cells, render_page
from cluster.pages.scatter import Dot, map_chart
from shards.samples.keys import printable

TEMPLATE_NAME = "probe.html.j2"
FIGURES = {
    "accuracy": "WA",
    "unweighted_accuracy": "UA",
    "weighted_f1": "WF1",
    "macro_f1": "Macro-F1",
    "f1_bias": "F1 bias",
}
MAP_COLUMNS = {"truth": "emotion", "speaker": "speaker"}
Document = Mapping[str, Any]
Differences = Mapping[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A figure in percent, and what stands below it: a spread or intervals."""

    value: str
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """A line of a table: a method, what it is made of, and its figures."""

    name: str
    encoder: str
    input: str
    head: str
    num_parameters: str
    means: Sequence[Cell]
    pooled: Sequence[Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodTable:
    """Methods that were tested on the same utterances in the same folds, and how."""

    caption: str
    rows: Sequence[MethodRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """The tested utterances of one method on a plane, in the colors of one column."""

    name: str
    column: str
    chart: Markup
    legend: Sequence[tuple[str, str]]


def probe_page(
    documents: Sequence[Document],
    differences: Sequence[Differences],
    places: Sequence[pa.Table | None],
) -> str:
    """Render the page as text.

    `documents` are what probe.json holds: this probe's, and then those beside it. `differences`
    are between this one and each of the others. `places` [as many as documents] are tables of x, y,
    truth and speaker.
    """
    mine = documents[0]
    return render_page(
        TEMPLATE_NAME,
        probe=mine,
        name=_name(mine),
        headline=_percent(mine["figures"]["folds"]["accuracy"]["value"]),
        figures=list(FIGURES.values()),
        tables=_tables(documents),
        any_starred=any(map(_is_starred, documents)),
        any_shared=any(document["shares_speakers"] for document in documents),
        differences=_differences(documents[1:], differences),
        num_beside=len(documents) - 1,
        folds=[(fold["name"], _fold_size(mine, fold), _fold_cells(fold)) for fold in mine["folds"]],
        confusion=confusion_cells(mine["names"], mine["confusion"]),
        emotion_part=emotion_part(mine),
        group_parts=[],
        layer_weights=_layer_weights(mine),
        maps=[
            _map(number, _name(document), table, column)
            for number, (document, table) in enumerate(zip(documents, places, strict=True))
            if table is not None
            # Who speaks is shown of this probe only: of many probes, the page would be all maps.
            for column in (MAP_COLUMNS if number == 0 else ("truth",))
        ],
        fewest=MIN_POINTS,
    )


def _tables(documents: Sequence[Document]) -> list[MethodTable]:
    """One table for each protocol, in the order in which they come up."""
    by_protocol: dict[tuple[Any, ...], list[Document]] = {}
    for document in documents:
        config = document["config"]
        protocol = (
            document["corpus_digest"],
            tuple(document["names"]),
            config["folds"],
            config["num_utterances"],
            config.get("history"),  # earlier releases had none
        )
        by_protocol.setdefault(protocol, []).append(document)

    return [
        MethodTable(caption=_protocol(mine[0]), rows=[_row(document) for document in mine])
        for mine in by_protocol.values()
    ]


def _protocol(document: Document) -> str:
    config, number = document["config"], document["config"]["num_utterances"]
    trained = "all" if number is None else f"{number:,} (drawn {len(config['subset_seed'])} times)"
    history = config.get("history")
    past = "" if history is None else f"; predicted from {history} turns before"
    return (
        f"{document['num_utterances']:,} utterances of {document['num_speakers']:,} speakers, "
        f"{len(document['names'])} classes; folds {config['folds']}; training utterances: {trained}"
        f"{past}"
    )


def _row(document: Document) -> MethodRow:
    config, figures = document["config"], document["figures"]
    layers = "" if config["layers"] == "last" else f", {config['layers']} layers"
    return MethodRow(
        name=_name(document),
        encoder=document["encoder"].rstrip("/").rpartition("/")[2],
        input=f"{document['input']}{layers}",
        head=config["head"],
        num_parameters=f"{document['num_parameters']:,}",
        means=[_mean_cell(figures["folds"][name]) for name in FIGURES],
        pooled=[_pooled_cell(figures["pooled"][name]) for name in FIGURES],
    )


def _name(document: Document) -> str:
    """The name of a method, with its star."""
    return printable(document["name"]) + ("*" if _is_starred(document) else "")


def _is_starred(document: Document) -> bool:
    return bool(document["selected_on"] == "test")


def _mean_cell(figure: Mapping[str, Any]) -> Cell:
    spread = [] if figure["std"] is None else [f"± {100 * figure['std']:.2f}"]
    return Cell(value=_percent(figure["value"]), notes=spread)


def _pooled_cell(figure: Mapping[str, Any]) -> Cell:
    """A figure with its interval over speakers and, below it, that over utterances."""
    ends = (figure[f"by_{unit}"] for unit in ("speaker", "utterance"))
    return Cell(value=_percent(figure["value"]), notes=[_interval(one) for one in ends])


def _differences(
    others: Sequence[Document], differences: Sequence[Differences]
) -> list[tuple[str, Sequence[Cell] | None]]:
    """For each other probe its name and the differences; None where they are not paired."""
    return [
        (
            _name(other),
            None if found is None else [_pooled_cell(found["pooled"][name]) for name in FIGURES],
        )
        for other, found in zip(others, differences, strict=True)
    ]


def _fold_size(document: Document, fold: Mapping[str, Any]) -> str:
    model = next(one for one in document["models"] if one["fold"] == fold["name"])
    sizes = (model[f"num_{part}"] for part in ("train", "validation", "test"))
    return " / ".join(f"{size:,}" for size in sizes)


def _fold_cells(fold: Mapping[str, Any]) -> list[str]:
    return [_percent(fold[name]) for name in FIGURES]


def _layer_weights(document: Document) -> list[str]:
    """The learned weight of each layer, the mean over the models; empty where none is learned."""
    weights = [model["layer_weights"] for model in document["models"]]
    return [_percent(sum(layer) / len(layer)) for layer in zip(*weights, strict=True)]


def _map(number: int, name: str, table: pa.Table, column: str) -> Map:
    values = table[column].to_pylist()
    coloring = color(values)
    points = zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)

    dots = [
        Dot(x=x, y=y, name=f"{key}: {text}", color=shade)
        for (x, y), key, text, shade in zip(
            points, table["key"].to_pylist(), coloring.texts, coloring.colors, strict=True
        )
    ]
    what = MAP_COLUMNS[column]
    caption = Caption(
        name=f"map-{number}-{column}",
        title=f"Tested utterances by {what}",
        description=f"{len(dots)} utterances on a plane, colored by {what}.",
    )
    return Map(name=name, column=what, chart=map_chart(caption, dots), legend=coloring.legend)


def _percent(share: float) -> str:
    return f"{100 * share:.2f}"


def _interval(ends: Sequence[float | None]) -> str:
    if ends[0] is None or ends[1] is None:
        return "not known"
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"
