"""Paths and URLs: a local path, `file://`, or any URL that fsspec knows, such as `s3://`.

Credentials and endpoints are left to the configuration of fsspec and of the storage provider
(`AWS_*`, `FSSPEC_S3_ENDPOINT_URL`, `HF_TOKEN`). So workers get them from their environment, and no
option of this project has to carry a secret.
"""

import os
import re
from typing import Any

from fsspec.core import url_to_fs

from shards.config import ConfigError

MAX_BRACE_ALTERNATIVES = 100_000

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_INNERMOST_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBER_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def scheme_of(url: str) -> str:
    """The scheme of `url` in lower case: `s3` for `s3://bucket/key`; empty for a plain path."""
    match = _SCHEME.match(url)
    return "" if match is None else match[1].lower()


def is_remote(url: str) -> bool:
    """Whether `url` needs fsspec; a plain path and a `file://` URL do not."""
    return scheme_of(url) not in ("", "file", "local")


def absolute(url: str) -> str:
    """`url` in a form that does not depend on the current folder and that fsspec understands.

    A local path becomes absolute. The scheme of another URL becomes lower case, because fsspec
    knows no schemes in capitals.
    """
    scheme = scheme_of(url)
    return scheme + url[len(scheme) :] if is_remote(url) else local_path(url)


def local_path(url: str) -> str:
    """The absolute local path of `url`.

    The path is absolute because workers on the same node run in other directories.
    """
    return os.path.abspath(_SCHEME.sub("", url, count=1))


def require_local(config: object, *names: str) -> None:
    """Raise ConfigError for an option whose value is a URL of an object store; None is accepted.

    `names` are the options, spelled as errors spell them. It is for what is written file by file
    and changed in place, which object stores cannot: without this, a folder `s3:` would be made.
    """
    for name in names:
        value = getattr(config, name.removeprefix("--").replace("-", "_"))
        if value is not None and is_remote(value):
            raise ConfigError(
                f"{name}: got {value}, expected a folder of this machine or of a file server that "
                "it has mounted; write there, and copy what is finished to the object store"
            )


def join(base: str, *parts: str) -> str:
    """`base/part/...` for a path or a URL."""
    if not is_remote(base):
        return os.path.join(base, *parts)
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def remote_filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of `url`, and the path of `url` in this filesystem.

    What fsspec remembers of the path's folder is dropped: a driver that listed the folder an hour
    ago must see what its workers have written since. Raises ConfigError for a scheme that is
    unknown or whose library is not installed.
    """
    try:
        filesystem, path = url_to_fs(absolute(url))
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"{url}: {error}; `emostream doctor` lists the kinds of storage and the extras that "
            "install them"
        ) from error

    filesystem.invalidate_cache(path)
    return filesystem, path


def expand_braces(pattern: str) -> list[str]:
    """Every alternative of `{a,b}` and `{000..010}` in `pattern`, in order and without repeats.

    Other braces stay as they are: `a{b` may be the name of a file. Raises ConfigError when there
    are too many alternatives, or when a range does not rise. The `braceexpand` package was left
    out: it expands without a bound, and its steps and letter ranges are not needed here.
    """
    # `pending` is a stack. Alternatives are pushed in reverse order, so that the first is taken
    # first and the results keep the order of the pattern.
    pending, expanded = [pattern], []
    while pending:
        current = pending.pop()
        alternatives = _first_alternatives(current)
        if alternatives is None:
            expanded.append(current)
        elif len(pending) + len(expanded) + len(alternatives) > MAX_BRACE_ALTERNATIVES:
            raise ConfigError(
                f"{pattern}: braces give more than {MAX_BRACE_ALTERNATIVES} names; use * or split "
                "the job"
            )
        else:
            pending.extend(reversed(alternatives))

    return list(dict.fromkeys(expanded))


def _first_alternatives(pattern: str) -> list[str] | None:
    for braces in _INNERMOST_BRACES.finditer(pattern):
        choices = _choices(braces[1])
        if choices is not None:
            return [
                pattern[: braces.start()] + choice + pattern[braces.end() :] for choice in choices
            ]

    return None


def _choices(body: str) -> list[str] | None:
    numbers = _NUMBER_RANGE.fullmatch(body)
    if numbers is None:
        return body.split(",") if "," in body else None

    # A number with a leading zero makes all numbers equally long, as in bash: {08..10}.
    first, last = numbers[1], numbers[2]
    width = max(len(first), len(last)) if "0" in (first[0], last[0]) else 0
    if int(last) - int(first) >= MAX_BRACE_ALTERNATIVES or int(last) < int(first):
        raise ConfigError(
            f"{{{body}}}: got a range from {first} to {last}, expected a rising range of at most "
            "100,000 numbers"
        )

    return [str(number).zfill(width) for number in range(int(first), int(last) + 1)]
