"""Decides whether a run may be resumed: only a few options may have changed since its start.

Resolved options are compared, so an option that is set to its own default counts as equal. Options
must be equal when they say what the run is for, how it learns, or how its state is divided among
workers. Options may differ when they say where the run happens, how long it lasts, or how often it
reports. The learning rate must be equal: its schedule is part of the saved state, so another
learning rate would be ignored without a word.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.storage import documents
from shards.storage.documents import read_json
from trainers.config import TrainConfig
from trainers.engine.checkpoints import RESULT_NAME

CONFIG_NAME = "config.yaml"
MAY_DIFFER = frozenset(
    {
        # A corpus may move to another place. Its content is compared by a digest elsewhere, when
        # the position in the stream of batches is restored.
        "shards",
        "out",
        "resume",
        "num_workers",
        "address",
        "data.num_workers",
        "data.cache_mib",
        "engine.num_steps",
        "engine.num_epochs",
        # Whether the number of steps may change without it is decided where the steps of epochs
        # are known, in the engine.
        "engine.extend",
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
    """Save the options in the run's folder."""
    documents.write_config(str(out / CONFIG_NAME), config)


def refuse_another_run(out: Path, config: TrainConfig) -> None:
    """Raise ConfigError when the run in `out` was started with other options than `config` has.

    The message names every such option with both values.
    """
    try:
        saved = from_mapping(
            TrainConfig, yaml.safe_load((out / CONFIG_NAME).read_text(encoding="utf-8"))
        )
    except (FileNotFoundError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"resume: {out / CONFIG_NAME} is missing or damaged, so the options that the run was "
            "started with are not known; restore the file, or give another --out"
        ) from error

    # Options without a counterpart are compared too, because two recipes have different options.
    before, now = dict(resolved_options(saved)), dict(resolved_options(config))
    differ = [
        f"{name}: got {now.get(name)}, the run was started with {before.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and name not in MAY_DIFFER
    ]
    if differ:
        raise ConfigError(
            f"resume: {'; '.join(differ)}; give the options that {out} was started with, or "
            "another --out"
        )


def is_finished(config: TrainConfig, corpus: str) -> bool:
    """Whether the run in `config.out` has come to its end on this corpus, given by its digest.

    Raises ConfigError when it was started with other options than `config` has.
    """
    out = Path(config.out)
    if not (config.resume and (out / RESULT_NAME).exists()):
        return False

    refuse_another_run(out, config)
    saved = from_mapping(
        TrainConfig, yaml.safe_load((out / CONFIG_NAME).read_text(encoding="utf-8"))
    )
    length = [
        (one.engine.max_steps, one.engine.num_epochs, one.engine.patience)
        for one in (saved, config)
    ]
    return length[0] == length[1] and read_json(out / RESULT_NAME)["corpus"] == corpus


def resolved_options(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    """Every option as (full name, value), for example ("engine.seed", 0), defaults included."""
    return _flat({**to_mapping(config), "model": to_mapping(config.recipe_config())}, "")


def _flat(values: Mapping[str, Any], before: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value
