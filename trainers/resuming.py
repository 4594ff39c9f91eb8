"""Whether a run can be gone on with: its options are those it was started with, but for the few
that may differ.

Compared are resolved options, so that a default written out is no difference. What a run is for,
how it learns and how its state is divided must be the same; where it runs, how long and how often
it reports may not be. The learning rate is among the first: its schedule is part of the saved
state, and another one would be ignored without a word.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.storage import documents
from trainers.config import TrainConfig

CONFIG_NAME = "config.yaml"
MAY_DIFFER = frozenset(
    {
        "shards",  # a corpus may move; what it holds is compared by its digest
        "out",
        "resume",
        "num_workers",
        "address",
        "data.num_workers",
        "data.cache_mib",
        "engine.num_steps",
        "engine.num_epochs",
        "engine.gradient_checkpointing",
        "engine.validate_every",
        "engine.checkpoint_every",
        "engine.keep_checkpoints",
        "engine.patience",
        "engine.log_every",
        "engine.trackers",
    }
)


def write_config(out: Path, config: TrainConfig) -> None:
    """Save the options beside what they make."""
    documents.write_config(str(out / CONFIG_NAME), config)


def refuse_another_run(out: Path, config: TrainConfig) -> None:
    """Raise ConfigError, naming the options, when the run in `out` was started with others than
    `config` has.
    """
    try:
        saved = from_mapping(
            TrainConfig, yaml.safe_load((out / CONFIG_NAME).read_text(encoding="utf-8"))
        )
    except (FileNotFoundError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"resume: {out / CONFIG_NAME} is missing or damaged, and says what the run was started "
            "with; restore it, or give another --out"
        ) from error
    before, now = dict(_options(saved)), dict(_options(config))
    differ = [
        f"{name}: got {now.get(name)}, the run was started with {before.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in MAY_DIFFER
    ]
    if differ:
        raise ConfigError(
            f"resume: {'; '.join(differ)}; give what {out} was started with, or another --out"
        )


def _options(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Every option by its full name; the recipe's own with their defaults."""
    return _flat({**to_mapping(config), "model": to_mapping(config.recipe_config())}, "")


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
