"""Runs as a table of two axes: cells and their tests against cases by hand and scipy."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from cluster.comparing.axes import by_class, make_axis
from cluster.comparing.compare import CompareConfig, tabulate
from cluster.comparing.pivot import Pivot, make_pivot
from cluster.comparing.runs import Run
from shards.config import ConfigError

SVG = "{http://www.w3.org/2000/svg}"
PLAIN: Mapping[str, Any] = {
    "recipe": "finetune",
    "encoder.checkpoint": "hub/model",
    "data.num_utterances": None,
    "data.subset_seed": 0,
    "data.known_seconds": 0.0,
    "engine.num_steps": 20,
    "evaluate.corpus": "aaaa",
    "data.corpus": "bbbb",
}


def run(
    f1: float, seed: int = 0, *, adapted: Mapping[str, Any] | None = None, **options: Any
) -> Run:
    """A run with F1, options by names with `__` for dots, and the run that adapted its encoder."""
    values = PLAIN | {name.replace("__", "."): value for name, value in options.items()}
    if adapted is not None:
        del values["encoder.checkpoint"]
        values |= {f"encoder.from.{name}": value for name, value in adapted.items()}
    return Run(
        None,
        values,
        seed,
        {"F1": f1, "ACC": f1 / 2},
        class_f1={"anger": f1, "neutral": 1 - f1},
        paths={"shards": "a/packed/*.tar", "evaluate.shards": "a/packed/*.tar"},
    )


def adaptation(face: float) -> dict[str, Any]:
    return {"recipe": "multimodal", "model.face_weight": face, "model.sentiment_weight": 0.5}


def pivot(
    runs: list[Run], rows: str, columns: str = "", baseline: str | None = None, figure: str = "F1"
) -> Pivot:
    keys = columns.split(",") if columns else []
    return make_pivot(
        runs,
        make_axis("rows", rows.split(","), runs),
        make_axis("columns", keys, runs),
        [figure],
        baseline,
    )


def means(found: Pivot, figure: str = "F1") -> dict[str, dict[str, float]]:
    return {
        row: {column: round(one.cell.mean, 6) for column, one in cells.items()}
        for row, cells in found.figures[figure].items()
    }


def test_sizes_stand_across_and_starts_stand_down() -> None:
    """Table II: seeds and draws of labels are averaged; sizes are in order, and all are last."""
    few = {"data__num_utterances": 100}
    runs = [
        run(0.6),
        run(0.3, **few),
        run(0.5, **few, data__subset_seed=1, data__corpus="cccc"),
        run(0.8, adapted=adaptation(1.0)),
        run(0.7, 1, adapted=adaptation(1.0)),
        run(0.55, **few, data__subset_seed=1, adapted=adaptation(1.0)),
        run(0.2, data__num_utterances=20),
    ]

    found = pivot(runs, "encoder.checkpoint", "data.num_utterances")
    assert list(found.columns.labels.values()) == ["20", "100", "all"]
    assert found.baseline == "hub/model"
    assert means(found) == {
        "hub/model": {"20": 0.2, "100": 0.4, "all": 0.6},
        "multimodal": {"100": 0.55, "all": 0.75},
    }

    # Over the seeds and draws that both have: at 100 labels the second draw alone.
    assert found.figures["F1"]["multimodal"]["100"].gain == pytest.approx(0.05)
    assert found.figures["F1"]["multimodal"]["all"].gain == pytest.approx(0.2)
    assert found.figures["F1"]["hub/model"]["all"].gain is None


def test_a_row_is_tested_as_scipy_tests_it() -> None:
    """The star, the gain and its interval are those of a paired t-test over seeds and draws."""
    mine, theirs = [0.52, 0.61, 0.55, 0.58], [0.50, 0.53, 0.54, 0.51]
    seeds = [(0, 0), (0, 1), (1, 0), (1, 1)]
    labels = {"data__num_utterances": 100}
    runs = [
        run(f1, seed, **labels, data__subset_seed=draw, adapted=adaptation(1.0))
        for f1, (seed, draw) in zip(mine, seeds, strict=True)
    ]
    # In another order, since pairs are made by seed.
    runs += [
        run(f1, seed, **labels, data__subset_seed=draw)
        for f1, (seed, draw) in reversed(list(zip(theirs, seeds, strict=True)))
    ]

    found = pivot(runs, "encoder.checkpoint", baseline="hub/model")
    (one,) = found.figures["F1"]["multimodal"].values()
    expected = ttest_rel(mine, theirs)
    assert one.cell.p == pytest.approx(expected.pvalue)
    assert one.gain == pytest.approx(0.045)
    interval = expected.confidence_interval(0.95)
    assert one.gain_interval == pytest.approx((interval.low, interval.high))
    assert one.num_runs == 4


def test_adapted_encoders_are_called_by_what_differs() -> None:
    """Table VI: the weights of stage 1 are rows, as starts or as options of their own."""
    runs = [
        run(0.1, adapted=adaptation(1.0)),
        run(0.2, adapted=adaptation(0.0)),
        run(0.3, 1, adapted=adaptation(0.0)),
    ]
    assert means(pivot(runs, "encoder.checkpoint")) == {
        "multimodal": {"mean": 0.1},
        "multimodal face_weight=0.0": {"mean": 0.25},
    }

    weights = "encoder.from.model.face_weight,encoder.from.model.sentiment_weight"
    assert means(pivot(runs, weights, "recipe")) == {
        "face_weight=1.0, sentiment_weight=0.5": {"finetune": 0.1},
        "face_weight=0.0, sentiment_weight=0.5": {"finetune": 0.25},
    }


def test_a_cell_never_mixes_options() -> None:
    """Runs of one cell differ in seeds alone; others, and a seed twice, are refused by name."""
    runs = [run(0.1), run(0.2, 1, engine__num_steps=30)]
    with pytest.raises(ConfigError, match=r"engine\.num_steps is, for example, 20 and 30"):
        pivot(runs, "encoder.checkpoint")

    # Another corpus is another digest; with a draw of labels it need not be.
    with pytest.raises(ConfigError, match=r"differ in data\.corpus"):
        pivot([run(0.1), run(0.2, 1, data__corpus="cccc")], "encoder.checkpoint")
    with pytest.raises(ConfigError, match=r"two runs with engine\.seed 0"):
        pivot([run(0.1), run(0.2)], "encoder.checkpoint")

    found = pivot(
        [run(0.1), run(0.2, adapted=adaptation(1.0), engine__num_steps=30)],
        "recipe,encoder.checkpoint",
    )
    assert found.also_differing == ("engine.num_steps",)


def test_unknown_keys_are_refused_with_a_remedy() -> None:
    """A misspelled option names the nearest ones, and a baseline that is no row the rows."""
    runs = [run(0.1), run(0.2, data__num_utterances=10)]
    with pytest.raises(ConfigError, match=r"--rows: no run has data\.num_utterence; did you mean"):
        pivot(runs, "data.num_utterence")
    with pytest.raises(ConfigError, match="--columns: no run has name"):
        pivot(runs, "recipe", "name")
    with pytest.raises(ConfigError, match="expected one of the rows: 10, all"):
        pivot(runs, "data.num_utterances", baseline="finetune")


def test_classes_and_corpora_are_columns() -> None:
    """The F1 of each class has a column; corpora are called by their folders while these differ."""
    runs = by_class([run(0.25), run(0.75, adapted=adaptation(1.0))])
    assert means(pivot(runs, "encoder.checkpoint", "class")) == {
        "hub/model": {"anger": 0.25, "neutral": 0.75},
        "multimodal": {"anger": 0.75, "neutral": 0.25},
    }

    other = run(0.5, evaluate__corpus="dddd")
    for path, expected in (("b/msp/*.tar", "msp"), ("b/packed/*.tar", "b/packed/*.tar")):
        elsewhere = Run(
            None, other.options, 0, other.figures, paths={**other.paths, "evaluate.shards": path}
        )
        found = pivot([run(0.1), elsewhere], "encoder.checkpoint", "evaluate.shards")
        assert list(found.columns.labels.values())[1] == expected


def test_figures_are_chosen_among_shared_ones() -> None:
    """F1 by default; others by name; what no run has is refused."""
    runs = [run(0.2), run(0.4, adapted=adaptation(1.0))]
    config = CompareConfig(runs=(), out="", rows=("encoder.checkpoint",))
    assert set(tabulate(config, runs)["figures"]) == {"F1"}

    both = CompareConfig(runs=(), out="", rows=("encoder.checkpoint",), figures=("ACC", "F1"))
    assert tabulate(both, runs)["figures"]["ACC"]["multimodal"]["mean"]["mean"] == pytest.approx(
        0.2
    )
    wrong = CompareConfig(runs=(), out="", rows=("encoder.checkpoint",), figures=("WER",))
    with pytest.raises(ConfigError, match="--figures WER: expected some of F1, ACC"):
        tabulate(wrong, runs)

    with pytest.raises(ConfigError, match="--columns, --picture: got without --rows"):
        CompareConfig(runs=(), out="", columns=("recipe",), picture="a.svg")


@given(order=st.permutations(range(6)))
def test_the_order_of_runs_changes_no_cell(order: list[int]) -> None:
    """Cells, gains and p do not depend on the order in which runs are given."""
    runs = [run(0.1 * seed + 0.03 * seed**2, seed) for seed in range(3)]
    runs += [run(0.2 + 0.07 * seed, seed, adapted=adaptation(1.0)) for seed in range(3)]
    plain, mixed = (
        pivot(given, "encoder.checkpoint", "recipe", "hub/model").figures["F1"]
        for given in (runs, [runs[place] for place in order])
    )
    for row in plain:
        one, other = plain[row]["finetune"], mixed[row]["finetune"]
        assert one.cell.mean == pytest.approx(other.cell.mean)
        assert one.cell.p == other.cell.p is None or one.cell.p == pytest.approx(other.cell.p)
        assert one.gain is other.gain is None or one.gain == pytest.approx(other.gain)


def test_the_picture_shows_gains_against_sizes(tmp_path: Path) -> None:
    """Gain in points against labels, with all at the end; columns that are no sizes are refused."""
    few = {"data__num_utterances": 100}
    runs = [run(0.5 + 0.01 * seed, seed, **few) for seed in range(3)]
    runs += [run(0.6 + 0.02 * seed, seed, **few, adapted=adaptation(1.0)) for seed in range(3)]
    runs += [run(0.7), run(0.68, adapted=adaptation(1.0))]

    config = CompareConfig(
        runs=(),
        out="",
        rows=("encoder.checkpoint",),
        columns=("data.num_utterances",),
        picture=str(tmp_path / "gain.svg"),
    )
    tabulate(config, runs)
    root = ElementTree.fromstring((tmp_path / "gain.svg").read_text())
    texts = {"".join(node.itertext()) for node in root.iter(f"{SVG}text")}
    assert {"training utterances", "100", "all", "multimodal"} <= texts
    assert [node.text for node in root.iter(f"{SVG}desc")] == ["multimodal: +11, -2"]
    (reach,) = [node for node in root.iter(f"{SVG}path") if node.get("class") == "reach"]
    assert reach is not None  # three seeds at 100 labels; one of all has no interval

    with pytest.raises(ConfigError, match="--picture: got the columns recipe, expected one option"):
        tabulate(replace(config, columns=("recipe",)), runs[:6])
    with pytest.raises(ConfigError, match="no row shares a seed with the baseline"):
        tabulate(config, [run(0.5, **few), run(0.6, 1, **few, adapted=adaptation(1.0))])


def test_the_table_says_what_it_rests_on(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells have spreads and stars, empty ones a dash; other differences of rows are named."""
    few = {"data__num_utterances": 100}
    runs = [run(0.5 + 0.01 * seed, seed) for seed in range(3)]
    runs += [run(0.62 + 0.012 * seed, seed, adapted=adaptation(1.0)) for seed in range(3)]
    runs.append(run(0.4, **few, adapted=adaptation(0.0), engine__num_steps=30))
    rows, columns = ("encoder.checkpoint",), ("data.num_utterances",)
    tabulate(CompareConfig(runs=(), out="", rows=rows, columns=columns), runs)

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[:4] == [
        ["F1", "by", "data.num_utterances", "100", "all"],
        ["hub/model", "-", "51.0", "±", "1.0"],
        ["multimodal", "-", "63.2", "±", "1.2*"],
        ["multimodal", "face_weight=0.0", "40.0", "-"],
    ]
    assert "1 to 3 runs a cell" in " ".join(lines[5])
