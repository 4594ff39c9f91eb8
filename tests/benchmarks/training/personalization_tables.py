"""The tables of the personalization benchmark: means, differences and their significance.

Methods are compared speaker by speaker: a speaker's accuracy, averaged over training seeds, with
that of the baseline. The interval of the difference is from resampling speakers, by the code that
`emostream evaluate` has its intervals from, and p from a paired t-test over the same speakers.
Seeds are not counted as independent: they test the same speakers.
"""

import statistics
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO

import numpy as np
from scipy.stats import ttest_rel

from shards.resampling import SpeakerResamples
from tests.benchmarks.training.personalization_cells import CONTROLS, Cell, NamedCell, Result

Speaker = tuple[str, str]  # corpus, name
Row = dict[str, object]


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean difference over speakers in points, the ends of its 95 % interval, and p."""

    mean: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.mean:+.1f} [{self.low:+.1f}, {self.high:+.1f}] p {self.p:.4f}"


def method_table(
    found: Mapping[Cell, Result], baseline: str, title: str, out: TextIO
) -> dict[str, Row]:
    """Write one line for each method, and return the rows.

    A line has the mean over cells, the difference to the baseline, that in each world, and the
    controls.
    """
    rows: dict[str, Row] = {}
    if found:
        out.write(f"\n{title}\n")
    base = {name: cell for name, cell in _by_name(found).items() if name == baseline}

    for name, mine in _by_name(found).items():
        own = [result.figures["same"] for result in mine.values()]
        row: Row = {"runs": len(own), "a_acc": statistics.mean(own)}
        line = f"{name:24s} {row['a_acc']:5.1f} ({len(own)} runs)"

        if base and name != baseline:
            theirs = base[baseline]
            shared = {(cell.corpus, cell.seed) for cell in mine} & {
                (cell.corpus, cell.seed) for cell in theirs
            }
            gain = difference(_per_speaker(mine, shared), _per_speaker(theirs, shared))
            if gain is not None:
                worlds = _by_world(mine, theirs, shared)
                row |= {"gain": gain.mean, "interval": [gain.low, gain.high], "p": gain.p}
                row["worlds"] = worlds
                line += f"  {gain}, worlds {' '.join(f'{value:+.1f}' for value in worlds)}"

        for other in ("f1", "eights", *CONTROLS, "codes"):
            values = [found.figures[other] for found in mine.values() if other in found.figures]
            if values:
                row[other] = statistics.mean(values)
                line += f"  {other} {row[other]:.1f}"

        rows[name] = row
        out.write(line + "\n")

    return rows


def figure_table(found: Mapping[Cell, Result], title: str, out: TextIO) -> dict[str, float]:
    """Write the mean of each figure over cells, and its difference to the first figure."""
    results = [result.figures for result in found.values()]
    if not results:
        return {}

    out.write(f"\n{title}, mean of {len(results)} runs, difference to the first over runs\n")
    first = [next(iter(row.values())) for row in results]
    for name in results[0]:
        mine = [row[name] for row in results]
        line = f"{name:>14s} {statistics.mean(mine):5.1f}"
        if len(mine) > 1 and mine != first:
            p = ttest_rel(mine, first).pvalue
            line += f"  {statistics.mean(mine) - statistics.mean(first):+5.1f} (p {p:.4f})"
        out.write(line + "\n")

    return {name: statistics.mean(row[name] for row in results) for name in results[0]}


def missing_table(cells: Sequence[NamedCell], found: Container[object], out: TextIO) -> int:
    """Say which cells were asked for and have no result; return their number."""
    missing = [cell for cell in cells if cell not in found]
    if missing:
        out.write(f"\nNOT RUN: {len(missing)} of {len(cells)} cells\n")
    counts: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for cell in missing:
        world = cell.corpus.partition("-")[0]
        counts[cell.kind, world, cell.name].append(f"{cell.corpus.rpartition('-')[2]}/{cell.seed}")
    for (kind, world, name), places in counts.items():
        out.write(f"  {kind}, {name}, {world}/seed: {' '.join(places)}\n")
    return len(missing)


def difference(mine: Mapping[Speaker, float], theirs: Mapping[Speaker, float]) -> Difference | None:
    """The difference over speakers whom both tested; None with fewer than two, or without any."""
    speakers = sorted(mine.keys() & theirs.keys())
    gains = np.asarray([mine[speaker] - theirs[speaker] for speaker in speakers])
    if len(gains) < 2 or not gains.any():
        return None

    resamples = SpeakerResamples(np.arange(len(gains)), seed=0)
    columns = [np.bincount(resamples.group, weights) for weights in (gains, np.ones(len(gains)))]
    totals_R2 = resamples.totals(np.stack(columns, axis=1))
    low, high = resamples.interval(totals_R2[:, 0] / totals_R2[:, 1])

    pairs = [mine[speaker] for speaker in speakers], [theirs[speaker] for speaker in speakers]
    return Difference(float(gains.mean()), low, high, float(ttest_rel(*pairs).pvalue))


def _by_name(found: Mapping[Cell, Result]) -> dict[str, dict[Cell, Result]]:
    named: dict[str, dict[Cell, Result]] = defaultdict(dict)
    for cell, result in found.items():
        named[cell.name][cell] = result
    return named


def _per_speaker(
    found: Mapping[Cell, Result], shared: set[tuple[str, int]]
) -> dict[Speaker, float]:
    """Each speaker's accuracy, averaged over the seeds that two methods share."""
    values: dict[Speaker, list[float]] = defaultdict(list)
    for cell, result in found.items():
        if (cell.corpus, cell.seed) in shared:
            for speaker, accuracy in result.speakers.items():
                values[cell.corpus, speaker].append(accuracy)
    return {speaker: statistics.mean(mine) for speaker, mine in values.items()}


def _by_world(
    mine: Mapping[Cell, Result], theirs: Mapping[Cell, Result], shared: set[tuple[str, int]]
) -> list[float]:
    """The mean difference in each world, over the seeds that two methods share."""
    ours, others = (
        {(cell.corpus, cell.seed): result.figures["same"] for cell, result in found.items()}
        for found in (mine, theirs)
    )
    worlds = sorted({corpus for corpus, _ in shared})
    return [
        statistics.mean(ours[key] - others[key] for key in shared if key[0] == world)
        for world in worlds
    ]
