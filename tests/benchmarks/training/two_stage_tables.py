"""The tables of the two-stage benchmark, in the layout of the paper's Tables 1, 2, 3 and 5.

Figures are means over runs (worlds of a kind, and seeds), and so are the ends of their intervals,
which are of resampled speakers: speakers, not utterances, are what a world has few of. Models are
compared speaker by speaker, each speaker's F1 averaged over the seeds, by a paired t-test.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from tests.benchmarks.training.personalization_cells import Result
from tests.benchmarks.training.personalization_tables import Difference, Speaker, difference
from tests.benchmarks.training.two_stage_runs import BASELINES, MODELS

PROPOSED = "12"
_WIDTH = 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A cell that has run: what models are compared by, and all figures."""

    corpus: str
    seed: int
    result: Result
    metrics: Mapping[str, Any]


Runs = Mapping[str, Sequence[Run]]  # by model
Figure = tuple[float, float, float]  # value, and the ends of its interval


def score_table(runs: Runs, against: str, out: TextIO) -> dict[str, object]:
    """Tables 1 and 2: macro-F1, weighted F1, parameters, and the paired difference to a model."""
    out.write(
        f"{'Index':{_WIDTH}s} {'Audio':5s} {'Video':5s} {'Elicited':9s} {'Macro-F1':22s} "
        f"{'Weighted F1':22s} {'Parameters':>10s} Runs  F1 of speakers less that of {against}\n"
    )
    rows: dict[str, object] = {}
    for name, mine in runs.items():
        macro, weighted = (_overall(mine, figure) for figure in ("macro_f1", "weighted_f1"))
        number = mine[0].metrics["num_parameters"]
        gain = _gain(mine, runs.get(against, ()))
        out.write(
            f"{_marks(name)} {_shown(macro)} {_shown(weighted)} {number:10,d} {len(mine):4d}"
            + (f"  {gain}\n" if gain else "\n")
        )
        rows[name] = {
            "macro_f1": macro,
            "weighted_f1": weighted,
            "parameters": number,
            "runs": len(mine),
            "gain": None if gain is None else [gain.mean, gain.low, gain.high, gain.p],
        }

    return rows


def baseline_table(runs: Runs, out: TextIO) -> dict[str, object]:
    """Table 2: the proposed model and the architectures of others, where any of these has run."""
    chosen = {name: runs[name] for name in (PROPOSED, *BASELINES) if name in runs}
    return score_table(chosen, PROPOSED, out) if chosen.keys() - {PROPOSED} else {}


def emotion_table(runs: Runs, out: TextIO) -> dict[str, object]:
    """Table 3: F1 of each emotion, Brier score, and expected calibration error."""
    first = next(iter(runs.values()))[0]
    emotions = list(first.metrics["one_vs_rest"]["emotions"])
    names = [*(name.capitalize() for name in emotions), "Brier score", "ECE"]
    header = "".join(f"{name:21s}" for name in names)
    out.write(f"{'Index':{_WIDTH}s} {'Audio':5s} {'Video':5s} {'Elicited':9s} {header}\n")

    rows: dict[str, object] = {}
    for name, mine in runs.items():
        found = {
            emotion: _mean([run.metrics["one_vs_rest"]["emotions"][emotion]["f1"] for run in mine])
            for emotion in emotions
        }
        found["brier"] = _overall(mine, "brier_score")
        found["ece"] = _overall(mine, "calibration_error")
        out.write(f"{_marks(name)} {' '.join(_shown(one) for one in found.values())}\n")
        rows[name] = found

    return rows


def group_table(runs: Runs, field: str, out: TextIO) -> dict[str, object]:
    """Table 5 for the groups of a field: macro-F1, its bias, and the two fairness differences.

    DPD and EOD are means over the emotions; p is how often groups are as far apart by chance, of
    the first run.
    """
    first = next(iter(runs.values()))[0].metrics["fairness"]["fields"][field]
    header = "".join(f"{name.capitalize():21s}" for name in first["groups"])
    out.write(f"{'Index':{_WIDTH}s} {header}{'Macro-F1 bias, %':21s}{'DPD':21s}{'EOD':21s}p\n")

    rows: dict[str, object] = {}
    for name, mine in runs.items():
        found = [run.metrics["fairness"]["fields"][field] for run in mine]
        figures = {
            group: _mean([one["groups"][group]["macro_f1"] for one in found])
            for group in first["groups"]
            if all(group in one["groups"] for one in found)
        }
        apart = {
            figure: _mean([one["differences"][figure] for one in found])
            for figure in ("macro_f1_bias", "demographic_parity_mean", "equalized_odds_mean")
        }
        # Without enough speakers in two groups, nothing is compared.
        p = found[0]["differences"]["macro_f1_bias"]["p"]
        shown = " ".join(
            _shown(one, digits=1 if figure == "macro_f1_bias" else 3)
            for figure, one in {**figures, **apart}.items()
        )
        out.write(f"{name:{_WIDTH}s} {shown} {'-' if p is None else f'{p:.3f}'}\n")
        rows[name] = {**figures, **apart, "p": p}

    for line in first["too_small"]:
        out.write(f"  too small to judge: {line}\n")
    return rows


def cost_table(runs: Runs, out: TextIO) -> dict[str, float]:
    """Processor seconds of a cell of each kind, training and evaluation."""
    by_kind: dict[str, list[float]] = {}
    for name, mine in runs.items():
        by_kind.setdefault(MODELS[name].kind, []).extend(run.result.seconds for run in mine)

    means = {kind: statistics.mean(found) for kind, found in by_kind.items()}
    for kind, mean in means.items():
        out.write(f"{kind}: {mean:.0f} processor seconds a cell, {len(by_kind[kind])} cells\n")
    return means


def _gain(mine: Sequence[Run], theirs: Sequence[Run]) -> Difference | None:
    """The paired difference over speakers, over the seeds that both have."""
    shared = {(run.corpus, run.seed) for run in mine} & {(run.corpus, run.seed) for run in theirs}
    return difference(_per_speaker(mine, shared), _per_speaker(theirs, shared))


def _per_speaker(runs: Sequence[Run], shared: set[tuple[str, int]]) -> dict[Speaker, float]:
    values: dict[Speaker, list[float]] = {}
    for run in runs:
        if (run.corpus, run.seed) in shared:
            for speaker, score in run.result.speakers.items():
                values.setdefault((run.corpus, speaker), []).append(score)
    return {speaker: statistics.mean(found) for speaker, found in values.items()}


def _overall(runs: Sequence[Run], figure: str) -> Figure | None:
    return _mean([run.metrics["one_vs_rest"]["overall"][figure] for run in runs])


def _mean(entries: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The mean value and ends of the intervals; None where a run could not judge it."""
    if any(entry["value"] is None or None in entry["by_speaker"] for entry in entries):
        return None
    ends = [(entry["value"], *entry["by_speaker"]) for entry in entries]
    value, low, high = (statistics.mean(column) for column in zip(*ends, strict=True))
    return value, low, high


def _shown(figure: Figure | None, *, digits: int = 3) -> str:
    if figure is None:
        return f"{'-':20s}"
    value, low, high = (f"{number:.{digits}f}" for number in figure)
    return f"{f'{value} ({low}, {high})':20s}"


def _marks(name: str) -> str:
    """The first four columns of Tables 1 to 3."""
    model = MODELS[name]
    hears, sees = ("x" if model.inputs in (one, "both") else "-" for one in ("audio", "face"))
    return f"{name:{_WIDTH}s} {hears:5s} {sees:5s} {model.elicited:9s}"
