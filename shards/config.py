"""Configuration: keyword-only dataclasses, filled from YAML files, `--set` and flags by one strict
function.

A dataclass is the whole description of an option: its name, type, default and help. The command
line and the YAML reader are both derived from it, so neither can drift. pydantic and OmegaConf were
left out: they add a dependency and a second vocabulary for what `dataclasses.fields` already says.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be used; the message says what was got, what was expected and the
    remedy.
    """


def option(
    *,
    help: str | Callable[[], str],
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | Any = dataclasses.MISSING,
    positional: bool = False,
    is_group: bool = False,
    former: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its own help text, or a function that gives it when it is
    asked for.

    `positional` places it before the flags. `is_group` marks a mapping whose names are options, as
    those of a nested dataclass are. `former` names are still taken for one release, with a warning.
    """
    metadata = {"help": help, "positional": positional, "is_group": is_group, "former": former}
    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def inlined(group: type[Any]) -> Any:
    """A dataclass field that holds a group of options which people give as if they stood in the
    dataclass itself.
    """
    return dataclasses.field(default_factory=group, metadata={"is_inlined": True})


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option as people give it: its dataclass field, its type, and the inlined group it stands
    in.
    """

    field: "dataclasses.Field[Any]"
    hint: Any
    inlined_in: str | None

    @property
    def help(self) -> str:
        """What it means."""
        text: str | Callable[[], str] = self.field.metadata["help"]
        return text if isinstance(text, str) else text()

    @property
    def former(self) -> tuple[str, ...]:
        """Names it had."""
        return tuple(self.field.metadata.get("former", ()))

    @property
    def is_required(self) -> bool:
        """Whether it has no default."""
        return (
            self.field.default is dataclasses.MISSING
            and self.field.default_factory is dataclasses.MISSING
        )

    @property
    def default(self) -> Any:
        """Its default; dataclasses.MISSING where it is required."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default

    @property
    def is_group(self) -> bool:
        """Whether it holds options of its own, which are named GROUP.NAME."""
        return bool(self.field.metadata.get("is_group")) or dataclasses.is_dataclass(
            self.field.default_factory
        )

    def value(self, config: Any) -> Any:
        """What it is in `config`."""
        holder = config if self.inlined_in is None else getattr(config, self.inlined_in)
        return getattr(holder, self.field.name)


def options_of(cls: type[Any], inlined_in: str | None = None) -> dict[str, Option]:
    """The options of a dataclass by name, those of its inlined groups among them."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Option] = {}
    for field in dataclasses.fields(cls):
        if field.metadata.get("is_inlined"):
            found |= options_of(hints[field.name], field.name)
        else:
            found[field.name] = Option(field, hints[field.name], inlined_in)

    return found


def choices(hint: Any) -> tuple[Any, ...]:
    """What an option of this type may be, where that is a closed list; else empty."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())


def require_positive(config: object, *names: str) -> None:
    """Raise ConfigError for a number that is given and not above 0; `names` are options as errors
    call them.

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
