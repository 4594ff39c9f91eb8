"""Configuration: keyword-only dataclasses, filled from YAML files, `--set` and flags by one strict function.

A dataclass is the whole description of an option: its name, type, default and help. The command line and the YAML
reader are both derived from it, so neither can drift. pydantic and OmegaConf were left out: they add a dependency and a
second vocabulary for what `dataclasses.fields` already says.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what was got, what was expected and the remedy."""


def option(
    *,
    help: str | Callable[[], str],
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | Any = dataclasses.MISSING,
    positional: bool = False,
    is_group: bool = False,
) -> Any:
    """A dataclass field that carries its own help text, or a function that gives it when it is asked for.

    `positional` places it before the flags. `is_group` marks a mapping whose names are options, as those of a nested
    dataclass are.
    """
    metadata = {"help": help, "positional": positional, "is_group": is_group}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def help_of(field: "dataclasses.Field[Any]") -> str:
    """The help text of an option."""
    text: str | Callable[[], str] = field.metadata["help"]

    return text if isinstance(text, str) else text()


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """Build dataclass `cls` from plain values (as YAML gives them); nested dataclasses from nested mappings.

    Raises ConfigError for an unknown name, a missing one, or a value of the wrong type, naming `where` it stood.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        meant = _meant(cls, unknown[0])
        raise ConfigError(
            f"{where}: unknown option {', '.join(unknown)}; {f'did you mean {meant}? ' if meant else ''}known: "
            f"{', '.join(fields)}"
        )
    missing = [name for name, field in fields.items() if _is_required(field) and name not in values]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given")
    built = {name: convert(hints[name], value, where=f"{where}.{name}") for name, value in values.items()}
    try:
        return cls(**built)
    except ConfigError as error:
        if "." not in where:
            raise
        raise ConfigError(f"{where.removeprefix('options.')}.{error}") from error  # by the name that --set takes
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """`value` as type `hint`; text is parsed, so that "0.5" from a command line and 0.5 from YAML are the same."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: got {value!r}, expected one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        items = [part for part in value.split(",") if part] if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigError(f"{where}: got {value!r}, expected a list")
        return tuple(convert(arguments[0], item, where=where) for item in items)
    if origin in (dict, Mapping) or hint is dict:
        return _convert_mapping(arguments, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: got {value!r}, expected a mapping of options")
        return from_mapping(hint, value, where=where)
    return _convert_scalar(hint, value, where)


def to_mapping(config: Any) -> dict[str, Any]:
    """The resolved configuration as plain values, ready for YAML; the inverse of `from_mapping`."""
    plain: dict[str, Any] = _plain(dataclasses.asdict(config))
    return plain


def explain(config: Any) -> str:
    """The resolved configuration as YAML, each option with its help text; `--config` reads it back.

    A configuration with options of no fixed kind says by `expanded` which they are: name -> dataclass.
    """
    return "".join(f"{line}\n" for line in _explained(config, ""))


def choices(hint: Any) -> tuple[Any, ...]:
    """What an option of this type may be, where that is a closed list; else empty."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())


def require_positive(config: object, *names: str) -> None:
    """Raise ConfigError for a number that is given and not above 0; `names` are options as errors call them.

    `num_workers` and `--num-workers` are the same option.
    """
    for name, value in _given(config, names):
        if not value > 0:
            expected = "at least 1" if isinstance(value, int) else "more than 0"
            raise ConfigError(f"{name}: got {value}, expected {expected}")


def require_at_least(config: object, minimum: float, *names: str) -> None:
    """Raise ConfigError for a number that is given and below `minimum`; see `require_positive`."""
    for name, value in _given(config, names):
        if not value >= minimum:
            raise ConfigError(f"{name}: got {value}, expected {minimum} or more")


def require_share(config: object, *names: str) -> None:
    """Raise ConfigError for a number outside [0, 1); see `require_positive`."""
    for name, value in _given(config, names):
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{name}: got {value}, expected a share below 1")


def _given(config: object, names: Iterable[str]) -> Iterator[tuple[str, float]]:
    """The options that have a value, and it."""
    for name in names:
        value = getattr(config, name.removeprefix("--").replace("-", "_"))
        if value is not None:
            yield name, value


def _explained(config: Any, indent: str) -> Iterator[str]:
    expanded: Mapping[str, Any] = config.expanded() if hasattr(config, "expanded") else {}
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, text = expanded.get(field.name, getattr(config, field.name)), help_of(field)
        if dataclasses.is_dataclass(value):
            yield f"{indent}{field.name}:  # {text}"
            yield from _explained(value, f"{indent}  ")
            continue
        if known := choices(hints[field.name]):
            text = f"[{' | '.join(map(str, known))}] {text}"
        shown = yaml.safe_dump(_plain(value), default_flow_style=True, width=math.inf).removesuffix("...\n").strip()
        yield f"{indent}{field.name}: {shown}  # {text}"


def _meant(cls: type[Any], name: str) -> str | None:
    """The option, in whatever group, whose name is `name` or most like it."""
    known = list(_dotted_names(cls, ""))
    alike = [full for full in known if full.rpartition(".")[2] == name]
    return next(iter(alike or difflib.get_close_matches(name, known, 1)), None)


def _dotted_names(cls: type[Any], prefix: str) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        yield f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hint := hints[field.name]) and isinstance(hint, type):
            yield from _dotted_names(hint, f"{prefix}{field.name}.")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None or (value in ("none", "None", "null") and types.NoneType in arguments):
        if types.NoneType in arguments:
            return None
        raise ConfigError(f"{where}: a value must be given")
    failures = []
    for argument in arguments:
        if argument is types.NoneType:
            continue
        try:
            return convert(argument, value, where=where)
        except ConfigError as error:
            failures.append(error)
    raise failures[0]


def _convert_mapping(arguments: tuple[Any, ...], value: Any, where: str) -> dict[str, Any]:
    if isinstance(value, str):
        pairs = [part.split("=", 1) for part in value.split(",") if part]
        if any(len(pair) != 2 for pair in pairs):
            raise ConfigError(f"{where}: got {value!r}, expected name=value,name=value")
        value = dict(pairs)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: got {value!r}, expected a mapping")
    inner = arguments[1] if arguments else Any
    return {str(name): convert(inner, item, where=f"{where}.{name}") for name, item in value.items()}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false", "yes", "no", "on", "off"):
            return value.lower() in ("true", "yes", "on")
    elif hint is str and isinstance(value, str):
        return value
    elif hint in (int, float) and not isinstance(value, bool) and isinstance(value, int | float | str):
        try:
            number = hint(value)
        except ValueError:
            number = None
        if number is not None and (hint is float or isinstance(value, str) or number == value):
            return number
    raise ConfigError(f"{where}: got {value!r}, expected {getattr(hint, '__name__', hint)}")
