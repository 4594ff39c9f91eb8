"""Evaluated runs, read from their folders: options by dotted names, seed and figures.

A run is an evaluation folder (metrics.json), or NAME=FOLDER.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from shards.config import ConfigError
from shards.config_values import by_present_names, from_mapping, to_mapping
from shards.storage.documents import read_json
from trainers.engine.checkpoints import RESULT_NAME
from trainers.evaluation.config import METRICS_NAME, PREDICTIONS_NAME, EvaluateConfig
from trainers.recipes.registry import recipe_called
from trainers.settings.data import DataConfig
from trainers.settings.encoder import EncoderConfig
from trainers.settings.engine import DEFAULT_STEPS, EngineConfig

if TYPE_CHECKING:
    from trainers.evaluation.resampled import ResampledRun

GROUPS = {"encoder": EncoderConfig, "data": DataConfig, "engine": EngineConfig}
# Options that do not make a run another method: where it ran, how often it wrote, its seed.
IGNORED = {
    "seed",
    "trackers",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "num_workers",
    "cache_mib",
}
EVALUATED = ("split", "set_size", "support", "pldc", "neighbors", "known_seconds", "f1_over")

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluated run: its options, its seed and its figures.

    `name` is the one that NAME=FOLDER gave, or None. `resampled` is None for an evaluation without
    its predictions. `class_f1` is the F1 of each class, and empty where values are predicted.
    `paths` names the corpora by their patterns: their digests are among the options.
    """

    name: str | None
    options: Options
    seed: int
    figures: Mapping[str, float]
    resampled: "ResampledRun | None" = None
    class_f1: Mapping[str, float] = field(default_factory=dict)
    paths: Mapping[str, str] = field(default_factory=dict)


def read_run(given: str) -> Run:
    """Read the run of an evaluation folder, or of NAME=FOLDER.

    Raises ConfigError when a file of the run is missing.
    """
    # Why here: it imports scikit-learn, which the help text does not need.
    from trainers.evaluation.fairness.compared import fairness_figures
    from trainers.evaluation.targets import target_of

    name, folder = _named(given)
    try:
        metrics = read_json(Path(folder) / METRICS_NAME)
        checkpoint = _first_checkpoint(metrics)
        training = _training_of(str(checkpoint))
    except FileNotFoundError as error:
        raise ConfigError(
            f"--runs {folder}: {error.filename} is missing; expected a finished evaluation"
        ) from error

    measured = by_present_names(EvaluateConfig, metrics["config"])
    evaluation = {key: value for key, value in measured.items() if key in EVALUATED}
    # Why dropped: without PLDC, the number of neighbors changes nothing.
    if evaluation.get("pldc") is None:
        evaluation.pop("neighbors", None)
    evaluation |= {
        "model": checkpoint.name,
        "truth": metrics["truth"],
        "corpus": metrics["split_digest"][:8],
    }

    options = _training_options(training) | {
        f"evaluate.{key}": value for key, value in evaluation.items()
    }
    options["data.corpus"] = _corpus_of(checkpoint)

    return Run(
        name,
        options,
        int(training["engine"]["seed"]),
        target_of(metrics).figures(metrics) | fairness_figures(metrics),
        _resampled(Path(folder), metrics, options),
        _class_f1(metrics),
        {"shards": str(training["shards"]), "evaluate.shards": str(metrics["config"]["shards"])},
    )


def _class_f1(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The F1 of each class that occurs in the truth or in the predictions."""
    if "confusion" not in metrics:
        return {}

    counts_CC = np.asarray(metrics["confusion"], dtype=np.float64)
    involved_C = counts_CC.sum(axis=0) + counts_CC.sum(axis=1)
    return {
        name: float(2 * counts_CC[place, place] / involved_C[place])
        for place, name in enumerate(metrics["names"])
        if involved_C[place]
    }


def _resampled(folder: Path, metrics: Mapping[str, Any], options: Options) -> "ResampledRun | None":
    from trainers.evaluation.resampled import resampled_run

    path = folder / PREDICTIONS_NAME
    if not path.exists():
        return None

    f1_over = options.get("evaluate.f1_over") or options.get("data.target.f1_over", "present")
    return resampled_run(metrics, pq.read_table(path), f1_over)


def _first_checkpoint(metrics: Mapping[str, Any]) -> Path:
    """The model of an evaluation; of the models of several folds, the first one.

    Models of before 2026-11-28 were evaluated alone, and their metrics name them by a text.
    """
    given: str | list[str] = metrics["config"]["checkpoint"]
    return Path(given if isinstance(given, str) else given[0])


def _named(given: str) -> tuple[str | None, str]:
    """Name and folder of NAME=FOLDER; no name for a folder whose own path has an equals sign."""
    name, separator, folder = given.partition("=")
    is_path = (Path(given) / METRICS_NAME).exists()
    return (None, given) if is_path or not separator else (name, folder)


def _training_of(checkpoint: str) -> dict[str, Any]:
    """Read the configuration of the run that exported a checkpoint."""
    loaded: dict[str, Any] = yaml.safe_load(
        (Path(checkpoint).parent / "config.yaml").read_text(encoding="utf-8")
    )
    return loaded


def _corpus_of(checkpoint: Path) -> str | None:
    """Return the first digits of the digest of the corpus that a run was trained on.

    Returns None while the run is not finished.
    """
    try:
        result = read_json(checkpoint.parent / RESULT_NAME)
    except FileNotFoundError:
        return None
    return str(result["corpus"])[:8]


def _training_options(training: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a run's configuration to dotted names.

    If another run exported the encoder, the options of that run stand in place of its checkpoint.
    """
    recipe = str(training["recipe"])
    model = to_mapping(from_mapping(recipe_called(recipe).config, training["model"]))
    options: dict[str, Any] = {"recipe": recipe} | flat_options("model", model)
    for group in GROUPS:
        options |= flat_options(group, training[group])
    # The default number of steps, written out or not, is no other method.
    if options.get("engine.num_steps") == DEFAULT_STEPS:
        options["engine.num_steps"] = None

    checkpoint = options.get("encoder.checkpoint")
    if checkpoint is not None and (Path(checkpoint).parent / "config.yaml").is_file():
        del options["encoder.checkpoint"]
        origin = _training_options(_training_of(checkpoint))
        options |= {f"encoder.from.{key}": value for key, value in origin.items()}

    return options


def flat_options(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in IGNORED:
            continue
        if isinstance(value, Mapping):
            flat |= flat_options(f"{prefix}.{name}", value)
        else:
            flat[f"{prefix}.{name}"] = value
    return flat
