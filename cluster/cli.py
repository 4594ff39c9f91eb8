"""The command line: one table of commands, each a dataclass of options and the function that takes it.

Flags, `--config`, `--set`, `--print-config` and help are all derived from the dataclass, so an option is described
once. A command's module is imported only when it is asked for: `emostream --help` starts in a tenth of a second and
needs neither torch nor Ray. click and typer were left out: they would describe each option a second time.
"""

import argparse
import dataclasses
import logging
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import yaml

from cluster.command_table import COMMANDS
from cluster.exit_status import ExitStatus
from shards.config import ConfigError, choices, explain, from_mapping, help_of
from shards.errors import BadShard


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 2 unusable options, others as the command's help says)."""
    arguments = _parser(argv).parse_args(argv)
    if arguments.command is None:
        _parser(argv).print_help()
        return ExitStatus.USAGE
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    command = COMMANDS[arguments.command]
    try:
        config = _resolve(command.config_class(), arguments)
        if arguments.print_config:
            sys.stdout.write(explain(config))
            return ExitStatus.DONE
        return int(resolve_name(command.run)(config))
    except (ConfigError, BadShard) as error:
        sys.stderr.write(f"emostream {arguments.command}: {error}\n")
        return ExitStatus.USAGE
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        said = error if error.filename is None else f"{error.filename}: {error.strerror}; check the path"
        sys.stderr.write(f"emostream {arguments.command}: {said}\n")
        return ExitStatus.USAGE
    except (FileExistsError, NotADirectoryError) as error:
        sys.stderr.write(f"emostream {arguments.command}: {error.filename}: got a file, expected a folder\n")
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
        child = commands.add_parser(name, help=command.summary, description=f"{command.summary} {command.details}")
        if name == wanted:
            _add_options(child, command.config_class())
    return parser


def _add_options(parser: argparse.ArgumentParser, config_class: type[Any]) -> None:
    groups: list[str] = []
    hints = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        text = help_of(field)
        if field.metadata["positional"]:
            parser.add_argument(field.name, metavar=field.name.upper(), nargs="?", default=argparse.SUPPRESS, help=text)
        elif _is_group(field):
            groups.append(f"{field.name} ({text.rstrip('.')})")
        else:
            flag = "--" + field.name.replace("_", "-")
            help_text = f"{text} {_default_text(field)}".replace("%", "%%")
            flags = [flag, f"-{field.name}"] if len(field.name) == 1 else [flag]
            known = choices(hints[field.name])
            shown = f"{{{','.join(map(str, known))}}}" if known else "VALUE"
            parser.add_argument(
                *flags, dest=field.name, metavar=shown, default=argparse.SUPPRESS, help=help_text, **_arity(field)
            )
    parser.add_argument("--config", metavar="FILE", help="YAML file of the same options; flags and --set win over it.")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="Set one option; may be repeated."
    )
    parser.add_argument(
        "--print-config", action="store_true", help="Print all options as YAML, resolved and each explained, and stop."
    )
    if groups:
        parser.epilog = f"Groups of options, set by --set GROUP.NAME=VALUE and --config: {'; '.join(groups)}. "
        parser.epilog += "--print-config explains every one."


def _arity(field: "dataclasses.Field[Any]") -> dict[str, Any]:
    """A switch needs no value (--resume is --resume true); a list takes several, or one with commas."""
    if isinstance(field.default, bool):
        return {"nargs": "?", "const": True}
    return {"nargs": "+"} if str(field.type).startswith("tuple") else {}


def _is_group(field: "dataclasses.Field[Any]") -> bool:
    """Whether the field is a group of options, which --set and --config fill."""
    return bool(field.metadata["is_group"]) or dataclasses.is_dataclass(field.default_factory)


def _default_text(field: "dataclasses.Field[Any]") -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "(required)"
    if value is None or value in ((), {}, ""):
        return ""
    return f"(default: {','.join(map(str, value)) if isinstance(value, tuple) else value})"


def _resolve(config_class: type[Any], arguments: argparse.Namespace) -> Any:
    values = _read_yaml(arguments.config) if arguments.config else {}
    for assignment in arguments.set:
        name, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set: got {assignment!r}, expected NAME=VALUE")
        _set_nested(values, name.replace("-", "_"), value)
    names = {field.name for field in dataclasses.fields(config_class)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    values.update({name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()})
    return from_mapping(config_class, values, where="options")


def _set_nested(values: dict[str, Any], dotted: str, value: str) -> None:
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"--set {dotted}: {parent} is not a group of options")
    values[last] = value


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_bytes()) or {}
    except yaml.YAMLError as error:  # bytes that are not UTF-8 are one too
        raise ConfigError(f"--config {path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"--config {path}: got {type(loaded).__name__}, expected a mapping of options")
    return loaded
