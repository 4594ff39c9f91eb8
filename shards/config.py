"""Options of a command as keyword-only dataclasses, which YAML files, `--set` and flags fill.

A dataclass field describes an option completely: its name, type, default and help. The command line
and the YAML reader are both derived from these fields, so the two cannot disagree. One strict
function fills the dataclasses, `from_mapping` in `config_values.py`. pydantic and OmegaConf were
left out: they add a dependency and a second vocabulary for what `dataclasses.fields` already says.
"""

import dataclasses
import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be used.

    The message says what was got, what was expected, and the remedy.
    """


def option(
    *,
    help: str | Callable[[], str],
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | Any = dataclasses.MISSING,
    positional: bool = False,
    is_group: bool = False,
    is_paths: bool = False,
    former: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that is an option and carries its help.

    `help` is a text, or a function that is called for the text when somebody asks for help. A
    `positional` option is given without a flag, as DIR in `emostream report DIR`.
    `is_group` marks a mapping whose entries are options themselves and are named GROUP.NAME, like
    the options of a nested dataclass. `is_paths` marks a list of paths, in which a comma is part of
    a path; other lists may be given as one text with commas. `former` lists names that the option
    had before: they are accepted for one release, with a warning.
    """
    metadata = {
        "help": help,
        "positional": positional,
        "is_group": is_group,
        "is_paths": is_paths,
        "former": former,
    }

    if default_factory is not dataclasses.MISSING:
        return dataclasses.field(default_factory=default_factory, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def inlined(group: type[Any]) -> Any:
    """A dataclass field for a group of options that people give without the group's name.

    For example, people write `--host` and not `--listen.host`, because `listen` is inlined.
    """
    return dataclasses.field(default_factory=group, metadata={"is_inlined": True})


@dataclasses.dataclass(frozen=True, slots=True)
class Option:
    """One option as people give it.

    `field` is the option's dataclass field and `hint` its type. `inlined_in` is the name of the
    inlined group that holds the option; None when no inlined group holds it.
    """

    field: "dataclasses.Field[Any]"
    hint: Any
    inlined_in: str | None

    @property
    def help(self) -> str:
        """The help text of the option."""
        text: str | Callable[[], str] = self.field.metadata["help"]
        return text if isinstance(text, str) else text()

    @property
    def former(self) -> tuple[str, ...]:
        """Names that the option had before."""
        return tuple(self.field.metadata.get("former", ()))

    @property
    def is_required(self) -> bool:
        """Whether the option has no default."""
        return (
            self.field.default is dataclasses.MISSING
            and self.field.default_factory is dataclasses.MISSING
        )

    @property
    def default(self) -> Any:
        """The default of the option; dataclasses.MISSING for a required option."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return self.field.default

    @property
    def is_group(self) -> bool:
        """Whether the option holds other options, which are named GROUP.NAME."""
        return bool(self.field.metadata.get("is_group")) or dataclasses.is_dataclass(
            self.field.default_factory
        )

    @property
    def is_paths(self) -> bool:
        """Whether the option is a list of paths, which may hold commas."""
        return bool(self.field.metadata.get("is_paths"))

    def value(self, config: Any) -> Any:
        """The value of the option in `config`."""
        holder = config if self.inlined_in is None else getattr(config, self.inlined_in)
        return getattr(holder, self.field.name)


def options_of(cls: type[Any], inlined_in: str | None = None) -> dict[str, Option]:
    """The options of a dataclass by name, including the options of its inlined groups."""
    hints = typing.get_type_hints(cls)
    found: dict[str, Option] = {}

    for field in dataclasses.fields(cls):
        if field.metadata.get("is_inlined"):
            found |= options_of(hints[field.name], field.name)
        else:
            found[field.name] = Option(field, hints[field.name], inlined_in)

    return found


def choices(hint: Any) -> tuple[Any, ...]:
    """The values that type `hint` allows, where it lists them; otherwise an empty tuple.

    For example, `Literal["kl", "js"]` and `Literal["kl", "js"] | None` both give ("kl", "js").
    """
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)
    return next((found for part in typing.get_args(hint) if (found := choices(part))), ())


def require_positive(config: object, *names: str) -> None:
    """Raise ConfigError for an option whose value is not above 0; None is accepted.

    `names` are the options, spelled as errors spell them: `num_workers` and `--num-workers` are
    the same option.
    """
    for name, value in _given(config, names):
        if not value > 0:
            expected = "at least 1" if isinstance(value, int) else "more than 0"
            raise ConfigError(f"{name}: got {value}, expected {expected}")


def require_at_least(config: object, minimum: float, *names: str) -> None:
    """Raise ConfigError for an option whose value is below `minimum`; see `require_positive`."""
    for name, value in _given(config, names):
        if not value >= minimum:
            raise ConfigError(f"{name}: got {value}, expected {minimum} or more")


def require_share(config: object, *names: str) -> None:
    """Raise ConfigError for an option whose value is outside [0, 1); see `require_positive`."""
    for name, value in _given(config, names):
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{name}: got {value}, expected a share below 1 and at least 0")


def _given(config: object, names: Iterable[str]) -> Iterator[tuple[str, float]]:
    """The (name, value) of each option that has a value."""
    for name in names:
        value = getattr(config, name.removeprefix("--").replace("-", "_"))
        if value is not None:
            yield name, value
