"""`emostream compare`: evaluated runs in the papers' table layout.

A run is an evaluation folder (metrics.json). Its method and seed come from the training run whose model it evaluated:
the recipe and its own options, and engine.seed. Runs that differ in anything else of the evaluation (split, set size)
are different methods, so that a table never averages over two protocols.
"""

import json
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from shards.config import ConfigError, option
from shards.storage import atomic_write

FIGURES = {
    "accuracy": "ACC",
    "speaker_accuracy": "A-ACC",
    "macro_f1": "F1",
    "speaker_f1": "A-F1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Options of `emostream compare`."""

    runs: tuple[str, ...] = option(help="Evaluation folders, as `emostream evaluate` writes them.")
    out: str = option(help="JSON file for the table.")
    baseline: str = option(default="finetune", help="Method the others are tested against.")


def run_compare(config: CompareConfig) -> int:
    """Print the table and write it."""
    from trainers.comparison import compare

    runs = read_runs(config.runs)
    if config.baseline not in runs:
        raise ConfigError(f"--baseline {config.baseline}: not among the methods found: {', '.join(sorted(runs))}")
    table = compare(runs, config.baseline, tuple(FIGURES))
    sys.stdout.write(f"{'method':40s}{'seeds':>6s}" + "".join(f"{name:>18s}" for name in FIGURES.values()) + "\n")
    for method, cells in table.items():
        shown = "".join(
            f"{100 * cell.mean:10.1f} ± {100 * cell.std:.1f}{'*' if cell.is_significant else ' '}".rjust(18)
            for cell in cells.values()
        )
        sys.stdout.write(f"{method:40s}{len(runs[method]):6d}{shown}\n")
    sys.stdout.write(f"* paired t-test over seeds against {config.baseline}, p < .05\n")
    document = {method: {name: asdict(cell) for name, cell in cells.items()} for method, cells in table.items()}
    with atomic_write(config.out) as stream:
        stream.write((json.dumps(document, indent=2) + "\n").encode())
    return 0


def read_runs(folders: tuple[str, ...]) -> dict[str, dict[int, dict[str, float]]]:
    """Method -> seed -> figures."""
    runs: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
    for folder in folders:
        try:
            metrics = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))
            training_file = Path(metrics["config"]["checkpoint"]).parent / "config.yaml"
            training = yaml.safe_load(training_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(
                f"--runs {folder}: {error.filename} is missing; expected a finished evaluation"
            ) from error
        missing = sorted(set(FIGURES) - set(metrics["scores"]))
        if missing:
            raise ConfigError(f"--runs {folder}: has no {', '.join(missing)}; only classifiers can be compared")
        method, seed = _method(training, metrics["config"]), int(training["engine"]["seed"])
        if seed in runs[method]:
            raise ConfigError(f"--runs {folder}: {method} with seed {seed} is there twice")
        runs[method][seed] = {name: float(metrics["scores"][name]) for name in FIGURES}
    return dict(runs)


def _method(training: dict[str, Any], evaluation: dict[str, Any]) -> str:
    """The recipe with its own options, and what of the evaluation is not the default."""
    defaults = {"split": "test", "set_size": 8, "support": "same", "pldc": None}
    options = [f"{name}={value}" for name, value in sorted(training["model"].items())]
    options += [f"{name}={evaluation[name]}" for name, value in defaults.items() if evaluation[name] != value]
    return " ".join([training["recipe"], *options])
