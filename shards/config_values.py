"""Conversion of plain values, as YAML and the command line give them, to options and back.

Every error names the option that is wrong.
"""

import dataclasses
import difflib
import logging
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar, cast

import yaml

from shards.config import ConfigError, choices, options_of

T = TypeVar("T")
log = logging.getLogger(__name__)


def from_mapping(cls: type[T], values: Mapping[str, Any], *, where: str = "configuration") -> T:
    """Build dataclass `cls` from plain values, and nested dataclasses from nested mappings.

    `where` is what errors call `values`, for example `options`. Raises ConfigError for an unknown
    option, for a required option that is missing, and for a value of the wrong type.
    """
    values = _named_as_today(cls, values, where)
    missing = [
        name
        for name, declared in options_of(cls).items()
        if declared.is_required and name not in values
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be given")

    own, inner = _converted(cls, values, where)
    hints = typing.get_type_hints(cls)
    try:
        return cls(**own, **{name: hints[name](**given) for name, given in inner.items()})
    except ConfigError as error:
        if "." not in where:
            raise
        # A nested dataclass begins its message with its own option, "share: got 2". The group's
        # name goes before it, so that the message shows the name that --set takes: "inner.share".
        raise ConfigError(f"{where.removeprefix('options.')}.{error}") from error
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def _named_as_today(cls: type[Any], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`values` by present names, with a warning for each former name; all names are known."""
    for former, name in former_names(cls, values).items():
        if name in values:
            raise ConfigError(
                f"{where}: got {name} and its former name {former}; leave {former} out"
            )
        log.warning(
            "%s.%s is now called %s; the next release will not know the old name",
            where,
            former,
            name,
        )
    today = by_present_names(cls, values)

    options = options_of(cls)
    unknown = sorted(set(today) - set(options))
    if unknown:
        meant = _meant(cls, unknown[0])
        raise ConfigError(
            f"{where}: unknown option {', '.join(unknown)}; "
            f"{f'did you mean {meant}? ' if meant else ''}known options: {', '.join(options)}"
        )

    return today


def _converted(
    cls: type[Any], values: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The options of `cls` itself, and those of each inlined group, converted to their types.

    People give the options of an inlined group beside all others, but `cls` takes the group as one
    object.
    """
    options = options_of(cls)
    own: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        declared = options[name]
        holder = own if declared.inlined_in is None else inner.setdefault(declared.inlined_in, {})
        given = [value] if declared.is_paths and isinstance(value, str) else value
        holder[name] = convert(declared.hint, given, where=f"{where}.{name}")

    return own, inner


def former_names(cls: type[Any], values: Mapping[str, Any]) -> dict[str, str]:
    """The names in `values` that an option of `cls` had before, each with its present name."""
    today = {
        former: name for name, declared in options_of(cls).items() for former in declared.former
    }

    return {name: today[name] for name in values if name in today}


def by_present_names(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` with each former name of an option of `cls` replaced by its present name.

    Files that an earlier release has written hold former names.
    """
    today = former_names(cls, values)
    return {today.get(name, name): value for name, value in values.items()}


def convert(hint: Any, value: Any, *, where: str) -> Any:
    """Convert `value` to type `hint`; `where` is the name of the option in errors.

    Text is parsed, so that "0.5" from a command line and 0.5 from YAML give the same number.
    Raises ConfigError for a value that does not fit the type.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)

    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)

    if origin is typing.Literal:
        if value not in arguments:
            raise ConfigError(
                f"{where}: got {value!r}, expected one of {', '.join(map(str, arguments))}"
            )
        return value

    if origin is tuple:
        items = split_list(value) if isinstance(value, str) else value
        if not isinstance(items, list | tuple):
            raise ConfigError(f"{where}: got {value!r}, expected a list, such as [a, b] or a,b")
        return tuple(convert(arguments[0], item, where=where) for item in items)

    if origin in (dict, Mapping) or hint is dict:
        return _convert_mapping(arguments, value, where)

    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"{where}: got {value!r}, expected a mapping of options (name: value)"
            )
        return from_mapping(hint, value, where=where)

    return _convert_scalar(hint, value, where)


def split_list(text: str) -> list[str]:
    """The items of a list that is given as one text with commas."""
    return [part for part in text.split(",") if part]


def to_mapping(config: Any) -> dict[str, Any]:
    """The resolved options as plain values, ready for YAML; the inverse of `from_mapping`."""
    return {
        name: _plain(declared.value(config)) for name, declared in options_of(type(config)).items()
    }


def partial(cls: type[T], values: Mapping[str, Any], *, where: str) -> tuple[T, list[str]]:
    """`cls` for `explain`, and the names of the required options that `values` lack.

    A lacking option is None, and the checks that `cls` makes of itself are left out if there is
    one. Raises ConfigError as `from_mapping` does otherwise.
    """
    given = _named_as_today(cls, values, where)
    lacking = [
        name
        for name, declared in options_of(cls).items()
        if declared.is_required and name not in given
    ]
    if not lacking:
        return from_mapping(cls, given, where=where), []

    unchecked = object.__new__(cls)
    own, inner = _converted(cls, given, where)
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cast(Any, cls)):
        if field.metadata.get("is_inlined"):
            value: Any = hints[field.name](**inner.get(field.name, {}))
        else:
            default = options_of(cls)[field.name].default
            value = own.get(field.name, None if default is dataclasses.MISSING else default)
        object.__setattr__(unchecked, field.name, value)

    return unchecked, lacking


def explain(config: Any, missing: Collection[str] = ()) -> str:
    """The resolved options as YAML, each with its help as a comment; `--config` reads them back.

    Required options that are `missing` are shown as comments, to be filled in.

    The options of a group may depend on another option: those of `model` depend on `recipe`. A
    configuration with such a group has a method `expanded`, which returns group name -> dataclass.
    """
    return "".join(f"{line}\n" for line in _explained(config, "", missing))


def _explained(config: Any, indent: str, missing: Collection[str] = ()) -> Iterator[str]:
    expanded: Mapping[str, Any] = config.expanded() if hasattr(config, "expanded") else {}
    for name, declared in options_of(type(config)).items():
        value, text = expanded.get(name, declared.value(config)), declared.help
        if name in missing:
            yield f"{indent}# {name}: (required) {text}"
            continue
        if dataclasses.is_dataclass(value):
            yield f"{indent}{name}:  # {text}"
            yield from _explained(value, f"{indent}  ")
            continue

        if known := choices(declared.hint):
            text = f"[{' | '.join(map(str, known))}] {text}"
        # The value and its help share one line. So YAML gets no width at which to break the line,
        # and the "..." that YAML writes after a single value is removed.
        shown = (
            yaml.safe_dump(_plain(value), default_flow_style=True, width=math.inf)
            .removesuffix("...\n")
            .strip()
        )
        yield f"{indent}{name}: {shown}  # {text}"


def _meant(cls: type[Any], name: str) -> str | None:
    """The option that `name` probably means: `rate` means `inner.rate`, and `nmae` means `name`.

    None when no option has a similar name.
    """
    known = list(_dotted_names(cls, ""))
    alike = [full for full in known if full.rpartition(".")[2] == name]

    return next(iter(alike or difflib.get_close_matches(name, known, 1)), None)


def _dotted_names(cls: type[Any], prefix: str) -> Iterator[str]:
    for name, declared in options_of(cls).items():
        yield f"{prefix}{name}"
        if dataclasses.is_dataclass(declared.hint) and isinstance(declared.hint, type):
            yield from _dotted_names(declared.hint, f"{prefix}{name}.")


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


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
        raise ConfigError(f"{where}: got {value!r}, expected a mapping (name: value)")

    inner = arguments[1] if arguments else Any
    return {
        str(name): convert(inner, item, where=f"{where}.{name}") for name, item in value.items()
    }


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
    # True and False are excluded, because they are integers to Python.
    elif (
        hint in (int, float)
        and not isinstance(value, bool)
        and isinstance(value, int | float | str)
    ):
        try:
            number = hint(value)
        except ValueError:
            number = None

        # A number from YAML that is not whole, such as 1.5, must not become the integer 1.
        if number is not None and (hint is float or isinstance(value, str) or number == value):
            return number

    raise ConfigError(f"{where}: got {value!r}, expected {getattr(hint, '__name__', hint)}")
