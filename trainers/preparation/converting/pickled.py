"""Reads pickled weights without executing anything.

A pickle is a program. torch's restricted reader (`weights_only=True`) knows the few calls that make
tensors and plain containers, and stops at any other; a file that asks for another one is refused
by its name. Asking the user to trust the file instead was rejected.
"""

import argparse
import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from shards.config import ConfigError

# Classes beyond torch's own that may be made. Each only holds values: making one executes nothing.
ALLOWED: tuple[type[Any], ...] = (
    argparse.Namespace,  # the options of a training program, which some keep beside the weights
)
_REFUSED = re.compile(r"GLOBAL ([\w.]+)")


def read_pickled(path: Path) -> Any:
    """The content of a pickled file, on the CPU.

    Raises ConfigError for a file that asks for anything else than tensors and plain values, and for
    one that is damaged.
    """
    with path.open("rb") as stream:
        try:
            with torch.serialization.safe_globals(list(ALLOWED)):
                return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ConfigError(_why_refused(path, str(error))) from error
        except (OSError, RuntimeError, EOFError, ValueError, KeyError, AttributeError) as error:
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ConfigError(
                f"{path}: cannot be read as pickled weights: {reason}; get the file again"
            ) from error


def _why_refused(path: Path, said: str) -> str:
    named = _REFUSED.findall(said) or list(_asked_for(path))
    if not named:
        return (
            f"{path}: got a pickle that torch's restricted reader does not take, expected weights; "
            "get the file again, or safetensors from its author"
        )

    return (
        f"{path}: refused, nothing of it was executed: it asks for {', '.join(named)}, expected "
        "tensors and plain values only; such a file may do anything to a machine that opens it, so "
        "get safetensors from its author"
    )


def _asked_for(path: Path) -> Iterator[str]:
    """What a plain pickle asks for, read off its instructions and not executed.

    torch's reader stops at instructions of newer pickles before it comes to a name.
    """
    words: list[str] = []
    try:
        for instruction, argument, _ in pickletools.genops(path.read_bytes()):
            if instruction.name == "GLOBAL":
                yield str(argument).replace(" ", ".")
            elif instruction.name == "STACK_GLOBAL":
                yield ".".join(words[-2:])
            elif isinstance(argument, str):
                words.append(argument)
    except ValueError:
        return  # no pickle, or one that is cut off: what was found until here is all there is
