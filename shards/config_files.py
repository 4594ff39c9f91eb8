"""Reads configurations: YAML files of options, and those that a command knows by name.

A file may begin with `extends: NAME`, for a configuration that it changes in part: what it says
itself goes before what the other says, option by option. OmegaConf's interpolation was left out: a
reader would have to compute a value before seeing it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from shards.config import ConfigError

_EXTENDS = "extends"


def read_config(
    name_or_path: str, named: Mapping[str, Path], *, above: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The options in a YAML file, or in the configuration `named` so; a file goes before a name.

    `above` are the configurations that extend this one. Raises ConfigError for what is neither, and
    for a file that cannot be read, holds no mapping or extends itself.
    """
    if name_or_path in above:
        raise ConfigError(
            f"--config {above[0]}: {' extends '.join([*above, name_or_path])}; leave one of these "
            f"`{_EXTENDS}` out"
        )

    values = _read_mapping(_path_of(name_or_path, named), name_or_path)
    if _EXTENDS not in values:
        return values

    extended = str(values.pop(_EXTENDS))
    return _merged(read_config(extended, named, above=(*above, name_or_path)), values)


def _path_of(name_or_path: str, named: Mapping[str, Path]) -> Path:
    path = Path(name_or_path)
    if not path.is_file() and name_or_path in named:
        return named[name_or_path]

    if not path.exists():
        names = f" and no configuration of that name; names: {', '.join(named)}" if named else ""
        raise ConfigError(f"--config {name_or_path}: no such file{names or '; check the path'}")
    return path


def _read_mapping(path: Path, name: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_bytes()) or {}
    except yaml.YAMLError as error:  # bytes that are not UTF-8 raise it too
        raise ConfigError(
            f"--config {name}: not readable as YAML: {' '.join(str(error).split())}"
        ) from error

    if not isinstance(loaded, dict):
        raise ConfigError(
            f"--config {name}: got {type(loaded).__name__}, expected a mapping of options"
        )
    return loaded


def _merged(before: dict[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """`before` with the options of `after`, group by group."""
    merged = dict(before)
    for name, value in after.items():
        earlier = merged.get(name)
        is_group = isinstance(earlier, dict) and isinstance(value, Mapping)
        merged[name] = _merged(earlier, value) if is_group else value  # type: ignore[arg-type]

    return merged
