"""The command line: a table of commands, each a dataclass of options and a function that takes it.

Flags, `--config`, `--set`, `--print-config` and help are all derived from the dataclass, so an
option is described once. A command's module is imported only when the command is called: `emostream
--help` starts in a tenth of a second and needs neither torch nor Ray. click and typer were left
out: they would describe each option a second time.
"""

import argparse
import logging
import sys
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from cluster.command_table import COMMANDS
from cluster.exit_status import ExitStatus
from shards.config import ConfigError, Option, choices, options_of
from shards.config_files import read_config
from shards.config_values import explain, from_mapping, partial, split_list
from shards.errors import BadShard


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Unusable options, files or data give 2; the help of a command names the others.
    """
    arguments = _parser(argv).parse_args(argv)
    if arguments.command is None:
        _parser(argv).print_help()
        return ExitStatus.USAGE

    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S"
    )

    command = COMMANDS[arguments.command]
    try:
        values = _given_values(command.config_class(), arguments)
        if arguments.print_config:
            sys.stdout.write(_explained(command.config_class(), values))
            return ExitStatus.DONE
        config = from_mapping(command.config_class(), values, where="options")
        return int(resolve_name(command.run)(config))
    except (ConfigError, BadShard) as error:
        sys.stderr.write(f"emostream {arguments.command}: {error}\n")
        return ExitStatus.USAGE
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        said = (
            error
            if error.filename is None
            else f"{error.filename}: {error.strerror}; check the path"
        )
        sys.stderr.write(f"emostream {arguments.command}: {said}\n")
        return ExitStatus.USAGE
    except (FileExistsError, NotADirectoryError) as error:
        sys.stderr.write(
            f"emostream {arguments.command}: {error.filename}: got a file, expected a folder\n"
        )
        return ExitStatus.USAGE
    except KeyboardInterrupt:
        sys.stderr.write("\ninterrupted; run the same command again to continue\n")
        return ExitStatus.INTERRUPTED


def _parser(argv: Sequence[str] | None) -> argparse.ArgumentParser:
    words = sys.argv[1:] if argv is None else list(argv)
    wanted = next((word for word in words if not word.startswith("-")), None)

    parser = argparse.ArgumentParser(
        prog="emostream",
        description="Label large audio-visual corpora for emotion by cross-modal agreement.",
        epilog="`emostream COMMAND --help` describes each command.",
    )

    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, command in COMMANDS.items():
        child = commands.add_parser(
            name, help=command.summary, description=f"{command.summary} {command.details}"
        )

        # Why only this one: the options of a command are known only after the import of its module.
        if name == wanted:
            _add_options(child, command.config_class())

    return parser


def _add_options(parser: argparse.ArgumentParser, config_class: type[Any]) -> None:
    groups: list[str] = []
    for name, option in options_of(config_class).items():
        if option.field.metadata["positional"]:
            parser.add_argument(
                name, metavar=name.upper(), nargs="?", default=argparse.SUPPRESS, help=option.help
            )
        elif option.is_group:
            groups.append(f"{name} ({option.help.rstrip('.')})")
        else:
            _add_flag(parser, name, option)

    named = ", ".join(_named_configs(config_class))
    parser.add_argument(
        "--config",
        metavar="NAME|FILE" if named else "FILE",
        help="YAML file of the same options"
        + (f", or one of the configurations that come with emostream: {named}" if named else "")
        + "; a flag or --set overrides what the file says.",
    )
    parser.add_argument(
        "--set",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="Set one option; can be given several times.",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="Print every option with its value and its explanation as YAML, and stop.",
    )
    if groups:
        parser.epilog = (
            f"Groups of options, set with --set GROUP.NAME=VALUE or --config: {'; '.join(groups)}. "
        )
        parser.epilog += "--print-config explains every option."


def _add_flag(parser: argparse.ArgumentParser, name: str, option: Option) -> None:
    """Add the flag of one option, and its former spellings, which no help shows."""
    known = choices(option.hint)
    shown = f"{{{','.join(map(str, known))}}}" if known else "VALUE"
    help_text = f"{option.help} {_default_text(option)}".replace("%", "%%")

    for spelling in (name, *option.former):
        flags = [_flag(spelling), f"-{spelling}"] if len(spelling) == 1 else [_flag(spelling)]
        parser.add_argument(
            *flags,
            dest=spelling,
            metavar=shown,
            default=argparse.SUPPRESS,
            help=help_text if spelling == name else argparse.SUPPRESS,
            **_arity(option),
        )


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _arity(option: Option) -> dict[str, Any]:
    """Return how many values the flag of an option takes, as argparse wants it.

    A switch needs no value (`--resume` is `--resume true`). A list takes several.
    """
    if isinstance(option.default, bool):
        return {"nargs": "?", "const": True}
    return {"nargs": "+"} if typing.get_origin(option.hint) is tuple else {}


def _default_text(option: Option) -> str:
    if option.is_required:
        return "(required)"

    value = option.default
    if value is None or value in ((), {}, ""):
        return ""
    return f"(default: {','.join(map(str, value)) if isinstance(value, tuple) else value})"


def _explained(config_class: type[Any], values: dict[str, Any]) -> str:
    """All options; one that must be given and is not yet given is a comment."""
    config, lacking = partial(config_class, values, where="options")
    return explain(config, lacking)


def _given_values(config_class: type[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """What the file, --set and the flags give, before it is checked."""
    options = options_of(config_class)
    values = read_config(arguments.config, _named_configs(config_class)) if arguments.config else {}
    for assignment in arguments.set:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set: got {assignment!r}, expected NAME=VALUE")
        _set_nested(values, name.replace("-", "_"), value)

    # Why former spellings too: `from_mapping` maps them to the names of today.
    names = {spelling for name, option in options.items() for spelling in (name, *option.former)}

    given = {name: value for name, value in vars(arguments).items() if name in names}
    values.update(
        {
            name: _items(value, options.get(name)) if isinstance(value, list) else value
            for name, value in given.items()
        }
    )

    return values


def _items(words: list[str], option: Option | None) -> list[str]:
    """The items of a list, of which a word may hold several with commas, unless it is a path."""
    if option is not None and option.is_paths:
        return words
    return [item for word in words for item in split_list(word)]


def _set_nested(values: dict[str, Any], dotted: str, value: str) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {dotted}: {parent} is not a group of options")
    values[last] = value


def _named_configs(config_class: type[Any]) -> Mapping[str, Path]:
    """The configurations that come with a command, by name; most commands have none."""
    named: Mapping[str, Path] = (
        config_class.named_configs() if hasattr(config_class, "named_configs") else {}
    )
    return named
