"""What a compared method is called, and which runs are one method.

A method without a name of its own is called by its recipe and by its options: those in which the
compared runs differ and that do not have their default value, be they of the recipe, the encoder,
the data, the engine or the evaluation. If another run adapted the encoder, the options of that run
count too. So do the truth, and the digests of the corpora that were trained and measured on. Runs
that share a name differ only in their seed, so that a table never averages over two methods, two
corpora or two protocols.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any

from cluster.comparing.runs import GROUPS, Options, Run, flat_options
from shards.config import ConfigError
from shards.config_values import to_mapping
from trainers.evaluation.config import EvaluateConfig
from trainers.recipes.registry import recipe_called


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
    differing = differing_options([run.options for run in runs])

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


def differing_options(several: Sequence[Options]) -> set[str]:
    """The options that have several values among those that have them at all.

    One that lacks the option has another recipe, which its name says.
    """
    values: dict[str, set[str]] = defaultdict(set)
    for options in several:
        for key, value in options.items():
            values[key].add(repr(value))
    return {key for key, found in values.items() if len(found) > 1}


def method_name(options: Options, differing: set[str]) -> str:
    """Name a method: its recipe, what it started from, and the options that differ between runs."""
    words = [str(options["recipe"])]
    if "encoder.from.recipe" in options:
        words.append(f"from {options['encoder.from.recipe']}")

    defaults = defaults_of(options)
    # The words name the recipes already. An option without a default is named wherever it differs.
    keys = [key for key in sorted(differing) if key in options and not key.endswith("recipe")]
    keys = [key for key in keys if key not in defaults or options[key] != defaults[key]]

    return " ".join([*words, *(f"{short_name(key)}={shown_value(options[key])}" for key in keys)])


def baseline_of(wanted: str, methods: Collection[str]) -> str:
    """The method of that name, or the only one of that recipe, whatever options are in its name."""
    of_recipe = [method for method in methods if method.split()[0] == wanted]
    if wanted in methods or len(of_recipe) == 1:
        return wanted if wanted in methods else of_recipe[0]

    raise ConfigError(
        f"--baseline {wanted}: got {len(of_recipe) or 'none'} of the methods found, expected one: "
        f"{', '.join(sorted(methods))}; give the whole name of one of them"
    )


def defaults_of(options: Options) -> dict[str, Any]:
    """Return the defaults of all options of a run, and of the run that exported its encoder."""
    defaults: dict[str, Any] = {
        f"evaluate.{item.name}": item.default for item in fields(EvaluateConfig)
    }
    defaults["evaluate.model"] = "best"

    prefix = ""
    while f"{prefix}recipe" in options:
        defaults |= flat_options(
            f"{prefix}model", to_mapping(recipe_called(str(options[f"{prefix}recipe"])).config())
        )
        for group, config in GROUPS.items():
            defaults |= flat_options(f"{prefix}{group}", to_mapping(config()))
        prefix += "encoder.from."

    return defaults


def short_name(key: str) -> str:
    """The name of an option in the name of a method."""
    return key.removeprefix("evaluate.").removeprefix("model.")


def shown_value(value: object) -> str:
    """The value of an option in the name of a method."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
