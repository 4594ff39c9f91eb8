"""The personalization gap of the glossary: what models gain from hearing the test speakers."""

import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from cluster.comparing.runs import Run
from cluster.comparing.table import scale_of

KNOWN = "data.known_seconds"


def print_gaps(runs: Sequence[Run], figures: Sequence[str]) -> list[dict[str, Any]]:
    """Return and print what models gain from hearing the test speakers, by number of speakers."""
    from trainers.evaluation.comparison import compare

    scale, digits = scale_of(figures)
    sides: dict[str, dict[bool, dict[int, Mapping[str, float]]]] = defaultdict(
        lambda: {False: {}, True: {}}
    )
    for run in runs:
        same = {key: value for key, value in run.options.items() if key != KNOWN}
        sides[json.dumps(same, sort_keys=True)][bool(run.options[KNOWN])][run.seed] = run.figures

    gaps: list[dict[str, Any]] = []
    for described, (independent, dependent) in (
        (key, (pair[False], pair[True])) for key, pair in sides.items()
    ):
        seeds = sorted(set(independent) & set(dependent))
        if not seeds:
            continue

        cells = compare(
            {"independent": independent, "dependent": dependent}, "independent", figures
        )
        number = json.loads(described)["data.num_speakers"]

        for name in figures:
            difference = sum(
                dependent[seed][name] - independent[seed][name] for seed in seeds
            ) / len(seeds)
            p = cells["dependent"][name].p
            gaps.append(
                {
                    "num_speakers": number,
                    "figure": name,
                    "gap": difference,
                    "seeds": len(seeds),
                    "p": p,
                }
            )

            sys.stdout.write(
                f"personalization gap, {number or 'all'} training speakers: {name} "
                f"{scale * difference:+.{digits}f} over {len(seeds)} "
                f"seed{'s' if len(seeds) > 1 else ''}{'' if p is None else f', p {p:.3f}'}\n"
            )

    return gaps
