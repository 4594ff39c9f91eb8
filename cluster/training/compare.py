"""`emostream compare`: evaluated runs as the papers' tables, with significance and the gap.

A run is an evaluation folder (metrics.json), or NAME=FOLDER. Without a name, a method is called by
its recipe and by its options: those in which the compared runs differ and that do not have their
default value, be they of the recipe, the encoder, the data, the engine or the evaluation. If
another run adapted the encoder, the options of that run count too. So do the truth, and the digests
of the corpora that were trained and measured on. Runs that share a name differ only in their seed,
so that a table never averages over two methods, two corpora or two protocols.

The gap is the personalization gap of the glossary.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import yaml

from cluster.training.compare_intervals import intervals_of, print_intervals
from shards.config import ConfigError, option
from shards.config_values import by_present_names, from_mapping, to_mapping
from shards.storage.documents import read_json, write_json
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
KNOWN = "data.known_seconds"

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Options of `emostream compare`."""

    runs: tuple[str, ...] = option(
        is_paths=True,
        help="Evaluation folders, as `emostream evaluate` writes them, or NAME=FOLDER.",
    )
    out: str = option(help="JSON file for the table.")
    baseline: str = option(
        default="finetune",
        help="Method that the others are tested against: its name in the table, or its recipe if "
        "there is one method of it.",
    )


@dataclass(frozen=True, slots=True)
class Run:
    """One evaluated run: its options, its seed and its figures.

    `name` is the one that NAME=FOLDER gave, or None. `resampled` is None for an evaluation without
    its predictions.
    """

    name: str | None
    options: Options
    seed: int
    figures: Mapping[str, float]
    resampled: "ResampledRun | None" = None


def run_compare(config: CompareConfig) -> int:
    """Print the table, and write it to `out`."""
    from trainers.evaluation.comparison import compare

    runs = [read_run(folder) for folder in config.runs]
    figures = _shared_figures(runs)
    methods = by_method(runs)
    baseline = _baseline(config.baseline, methods)

    table = compare(methods, baseline, figures)
    shown = [name for name in figures if " std" not in name]
    _print_table(table, methods, shown, baseline)

    resampled = {
        method: [run.resampled for run in by_seed.values() if run.resampled is not None]
        for method, by_seed in runs_by_method(runs).items()
    }
    intervals = intervals_of(resampled, table, baseline)
    print_intervals(intervals, table, baseline, *_scale(figures))

    document: dict[str, Any] = {
        "baseline": baseline,
        "methods": {
            method: {
                name: asdict(cell) | intervals[method].get(name, {}) for name, cell in cells.items()
            }
            for method, cells in table.items()
        },
        "personalisation_gap": _gaps(runs, shown),
    }
    write_json(config.out, document)
    return 0


def _baseline(wanted: str, methods: Collection[str]) -> str:
    """The method of that name, or the only one of that recipe, whatever options are in its name."""
    of_recipe = [method for method in methods if method.split()[0] == wanted]
    if wanted in methods or len(of_recipe) == 1:
        return wanted if wanted in methods else of_recipe[0]

    raise ConfigError(
        f"--baseline {wanted}: got {len(of_recipe) or 'none'} of the methods found, expected one: "
        f"{', '.join(sorted(methods))}; give the whole name of one of them"
    )


def read_run(given: str) -> Run:
    """Read the run of an evaluation folder, or of NAME=FOLDER.

    Raises ConfigError when a file of the run is missing.
    """
    # Why here: it imports scikit-learn, which the help text does not need.
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
        target_of(metrics).figures(metrics),
        _resampled(Path(folder), metrics, options),
    )


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


def by_method(runs: Sequence[Run]) -> dict[str, dict[int, Mapping[str, float]]]:
    """Group the figures of runs: method -> seed -> figures.

    Raises ConfigError when a method has two runs with the same seed.
    """
    return {
        method: {seed: run.figures for seed, run in by_seed.items()}
        for method, by_seed in runs_by_method(runs).items()
    }


def runs_by_method(runs: Sequence[Run]) -> dict[str, dict[int, Run]]:
    """Group runs: method -> seed -> run. Raises ConfigError as `by_method` does."""
    # Why only runs that have the option: a run without it has another recipe, which its name says.
    values: dict[str, set[str]] = defaultdict(set)
    for run in runs:
        for key, value in run.options.items():
            values[key].add(repr(value))
    differing = {key for key, found in values.items() if len(found) > 1}

    methods: dict[str, dict[int, Run]] = defaultdict(dict)
    for run in runs:
        name = run.name or method_name(run.options, differing)
        if run.seed in methods[name]:
            raise ConfigError(
                f"--runs: {name} with seed {run.seed} is there twice; expected runs of a method to "
                "differ in their seeds"
            )
        methods[name][run.seed] = run

    return dict(methods)


def method_name(options: Options, differing: set[str]) -> str:
    """Name a method: its recipe, what it started from, and the options that differ between runs."""
    words = [str(options["recipe"])]
    if "encoder.from.recipe" in options:
        words.append(f"from {options['encoder.from.recipe']}")

    defaults = _defaults(options)
    # The words name the recipes already. An option without a default is named wherever it differs.
    keys = [key for key in sorted(differing) if key in options and not key.endswith("recipe")]
    keys = [key for key in keys if key not in defaults or options[key] != defaults[key]]

    return " ".join([*words, *(f"{_short(key)}={_shown(options[key])}" for key in keys)])


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
    options: dict[str, Any] = {"recipe": recipe} | _flat("model", model)
    for group in GROUPS:
        options |= _flat(group, training[group])
    # The default number of steps, written out or not, is no other method.
    if options.get("engine.num_steps") == DEFAULT_STEPS:
        options["engine.num_steps"] = None

    checkpoint = options.get("encoder.checkpoint")
    if checkpoint is not None and (Path(checkpoint).parent / "config.yaml").is_file():
        del options["encoder.checkpoint"]
        origin = _training_options(_training_of(checkpoint))
        options |= {f"encoder.from.{key}": value for key, value in origin.items()}

    return options


def _flat(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if name in IGNORED:
            continue
        if isinstance(value, Mapping):
            flat |= _flat(f"{prefix}.{name}", value)
        else:
            flat[f"{prefix}.{name}"] = value
    return flat


def _defaults(options: Options) -> dict[str, Any]:
    """Return the defaults of all options of a run, and of the run that exported its encoder."""
    defaults: dict[str, Any] = {
        f"evaluate.{item.name}": item.default for item in fields(EvaluateConfig)
    }
    defaults["evaluate.model"] = "best"

    prefix = ""
    while f"{prefix}recipe" in options:
        defaults |= _flat(
            f"{prefix}model", to_mapping(recipe_called(str(options[f"{prefix}recipe"])).config())
        )
        for group, config in GROUPS.items():
            defaults |= _flat(f"{prefix}{group}", to_mapping(config()))
        prefix += "encoder.from."

    return defaults


def _shared_figures(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return the names of the figures that all runs have.

    Raises ConfigError when the runs are of several kinds, which have no figure in common.
    """
    kinds = {tuple(run.figures) for run in runs}
    shared = [name for name in runs[0].figures if all(name in kind for kind in kinds)]
    if not shared:
        raise ConfigError(
            f"--runs: got {' and '.join(', '.join(kind) for kind in sorted(kinds))}; expected runs "
            "that predict the same classes or values"
        )
    return tuple(shared)


def _gaps(runs: Sequence[Run], figures: Sequence[str]) -> list[dict[str, Any]]:
    """Return and print what models gain from hearing the test speakers, by number of speakers."""
    from trainers.evaluation.comparison import compare

    scale, digits = _scale(figures)
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


def _print_table(
    table: Mapping[str, Mapping[str, Any]],
    methods: Mapping[str, Mapping[int, Any]],
    figures: Sequence[str],
    base: str,
) -> None:
    width = max(len(method) for method in table)
    sys.stdout.write(
        f"{'method':{width}s}{'seeds':>7s}" + "".join(f"{name:>20s}" for name in figures) + "\n"
    )

    scale, digits = _scale(figures)
    for method, cells in table.items():
        row = "".join(
            f"{scale * cells[name].mean:.{digits}f}{_spread(scale, cells[name].std, digits)}"
            f"{'*' if cells[name].is_significant else ' '}".rjust(20)
            for name in figures
        )
        sys.stdout.write(f"{method:{width}s}{len(methods[method]):7d}{row}\n")
    sys.stdout.write(
        f"{'percent; ' if scale == 100 else ''}± over seeds; * paired t-test over seeds against "
        f"{base}, p < .05; NAME=FOLDER in --runs gives a method another name\n"
    )


def _scale(figures: Sequence[str]) -> tuple[int, int]:
    """Return the factor and the decimal places of figures: percent, or CCC and ratings as is."""
    is_share = not any("CCC" in name or name == "Brier" for name in figures)
    return (100, 1) if is_share else (1, 3)


def _spread(scale: int, std: float | None, digits: int) -> str:
    return "" if std is None else f" ± {scale * std:.{digits}f}"


def _short(key: str) -> str:
    return key.removeprefix("evaluate.").removeprefix("model.")


def _shown(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
