"""Whether trained models show the unfairness that a world is known to have, and no other.

What is known comes from the same test utterances: how far groups are apart for a model that knows
what is shown and not who shows it (`judge`). A trained model knows less, so it may be less unfair;
the interval of what it shows should hold the known figure all the same. Where no group is set
apart, p below .05 should be as rare as chance makes it, one in twenty.
"""

import warnings
from collections.abc import Mapping
from typing import Any, TextIO

from sklearn.exceptions import UndefinedMetricWarning

from tests.benchmarks.training.two_stage_corpora import Sizes, known_of
from tests.benchmarks.training.two_stage_tables import Run, Runs
from tests.benchmarks.training.two_stage_worlds import unfairness

# The world, and what its background is known to change: a figure of `unfairness`.
KNOWN = {"unfair": "macro-F1", "unequal": "rate of anger"}
FIELD = "background"


def unfairness_table(runs: Runs, kind: str, sizes: Sizes, out: TextIO) -> dict[str, object]:
    """One line for each model: what is known, what it shows, and whether the two agree."""
    if kind not in KNOWN:
        return _by_chance(runs, out)

    rows: dict[str, object] = {}
    known = {
        run.corpus: known_gap(run.corpus, kind, sizes) for mine in runs.values() for run in mine
    }
    for name, mine in runs.items():
        for run in mine:
            entry, p = _shown_gap(run, kind)
            if entry["value"] is None:
                out.write(f"{name:18s} {run.corpus}/{run.seed}: too small to judge\n")
                continue

            low, high = entry["by_speaker"]
            is_within = low <= known[run.corpus] <= high
            out.write(
                f"{name:18s} {run.corpus}/{run.seed}: {KNOWN[kind]} apart, known "
                f"{known[run.corpus]:.3f}, shown {entry['value']:.3f} ({low:.3f}, {high:.3f}), "
                f"p {p:.3f}: {'within' if is_within else 'NOT within'} its interval, "
                f"{'found' if p < 0.05 else 'NOT found'} (p < .05)\n"
            )
            rows[f"{name}, {run.corpus}/{run.seed}"] = {
                "known": known[run.corpus],
                "shown": [entry["value"], low, high],
                "p": p,
            }

    return rows


def known_gap(corpus: str, kind: str, sizes: Sizes) -> float:
    """How far the backgrounds are apart in truth, in percent of F1 or as a share of answers."""
    with warnings.catch_warnings():
        # A small group may lack an emotion, whose F1 is then 0.
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        gap = abs(unfairness(known_of(corpus, sizes), FIELD)[KNOWN[kind]])
    return 100 * gap if kind == "unfair" else gap


def _shown_gap(run: Run, kind: str) -> tuple[Mapping[str, Any], float]:
    """The figure that the world changes, and p of the nearest difference that has one."""
    found = run.metrics["fairness"]["fields"][FIELD]
    if kind == "unfair":
        entry = found["differences"]["macro_f1_bias"]
        return entry, entry["p"]
    anger = found["emotions"]["anger"]["demographic_parity"]
    return anger, found["differences"]["demographic_parity_worst"]["p"]


def _by_chance(runs: Runs, out: TextIO) -> dict[str, object]:
    """How many of all comparisons find groups apart, where no group was set apart."""
    compared = [
        (f"{name}, {run.corpus}/{run.seed}, {field}", found["differences"]["macro_f1_bias"]["p"])
        for name, mine in runs.items()
        for run in mine
        for field, found in run.metrics["fairness"]["fields"].items()
        if found["differences"]["macro_f1_bias"]["p"] is not None
    ]
    apart = [where for where, p in compared if p < 0.05]
    out.write(
        f"no group was set apart; p < .05 of the macro-F1 bias in {len(apart)} of {len(compared)} "
        f"comparisons{': ' if apart else ''}{'; '.join(apart)}\n"
    )
    return {"compared": len(compared), "apart": apart}
