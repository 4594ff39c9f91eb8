"""The names of shards in tables, and the names of files in a folder.

A shard's name is its path below the fixed part of the pattern that found it: `train-000003.tar` for
`s3://corpus/*.tar`, `part-7/000.tar` for `s3://corpus/**/*.tar`. Tables do not hold full URLs: a
corpus that moves to another bucket would no longer match its own predictions.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from shards.config import ConfigError
from shards.storage.files import FileIdentity
from shards.storage.urls import is_remote, local_path, remote_filesystem

_WILDCARD = re.compile(r"[*?\[{]")


def relative_names(pattern: str, files: Sequence[FileIdentity]) -> list[str]:
    """The name of each of `files`, which `pattern` has found.

    Raises ConfigError when two files would have the same name.
    """
    root = _fixed_part(pattern)
    names = [_below(root, file.url) for file in files]

    if len(set(names)) != len(names):
        repeated = Counter(names).most_common(1)[0][0]
        raise ConfigError(
            f"{pattern}: two shards would both be called {repeated!r}; give their common folder "
            "instead"
        )

    return names


def find_shards(
    pattern: str, files: Sequence[FileIdentity], names: Iterable[str]
) -> dict[str, FileIdentity]:
    """The file of each shard in `names`, among the `files` that `pattern` has found.

    `pattern` need not be the pattern by which the shards were labeled: where it gives other names,
    the file whose URL ends in the shard's name is the shard's file. For example, the shard
    `part-0/a.tar` is found at `/moved/corpus/part-0/a.tar`. Raises ConfigError for a name that
    belongs to no file, or to more than one file.
    """
    by_name = dict(zip(relative_names(pattern, files), files, strict=True))

    found = {}
    for name in names:
        matches = (
            [by_name[name]]
            if name in by_name
            else [file for file in files if file.url.endswith("/" + name)]
        )
        if len(matches) != 1:
            raise ConfigError(
                f"{pattern}: got {len(matches)} files for shard {name!r}, expected one; check "
                "--shards. If the shard was removed on purpose, remove its prediction table and "
                "run `emostream select` again"
            )
        found[name] = matches[0]

    return found


def list_names(folder: str) -> list[str]:
    """The sorted names of everything in `folder`, including hidden names.

    The list is empty when the folder does not exist.
    """
    if not is_remote(folder):
        path = local_path(folder)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []

    filesystem, path = remote_filesystem(folder)
    if not filesystem.exists(path):
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in filesystem.ls(path, detail=False))


def _fixed_part(pattern: str) -> str:
    """The part of `pattern` before the first folder or file name with a wildcard.

    For example, `/corpus` for `/corpus/part-*/a.tar`, for `/corpus/a.tar`, and for `/corpus`.
    """
    wildcard = _WILDCARD.search(pattern)
    fixed = pattern if wildcard is None else pattern[: wildcard.start()]
    if wildcard is not None or pattern.endswith(".tar"):
        fixed = fixed[: fixed.rfind("/") + 1]

    if not is_remote(pattern):
        return local_path(fixed).rstrip("/")
    filesystem, path = remote_filesystem(fixed)
    # The URL must begin as the URLs in listings do: they write s3:// for s3a://.
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def _below(root: str, url: str) -> str:
    return url[len(root) + 1 :] if url.startswith(root + "/") else url.rpartition("/")[2]
