"""What a shard is called in tables, and which names lie in a folder.

A shard's name is its path below the fixed part of the pattern it was found by: `train-000003.tar`
for `s3://corpus/*.tar`, `part-7/000.tar` for `s3://corpus/**/*.tar`. Full URLs were left out of the
tables: a corpus that moves to another bucket would no longer match its own predictions.
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
    """The name of each of `files`, found by `pattern`. Raises ConfigError when two would share
    one.
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
    """Where each shard `names` lies among `files`, also when `pattern` is not the one it was
    labeled by.

    A file is a shard's when its URL ends in the shard's name. Raises ConfigError for a name with no
    file or with two.
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
    """Names of everything in `folder`, hidden names too; empty when there is no such folder."""
    if not is_remote(folder):
        path = local_path(folder)
        return sorted(os.listdir(path)) if os.path.isdir(path) else []
    filesystem, path = remote_filesystem(folder)
    if not filesystem.exists(path):
        return []
    return sorted(name.rstrip("/").rpartition("/")[2] for name in filesystem.ls(path, detail=False))


def _fixed_part(pattern: str) -> str:
    """The folder of `pattern` in which no part is a wildcard; the folder itself when it has
    none.
    """
    wildcard = _WILDCARD.search(pattern)
    fixed = pattern if wildcard is None else pattern[: wildcard.start()]
    if wildcard is not None or pattern.endswith(".tar"):
        fixed = fixed[: fixed.rfind("/") + 1]
    if not is_remote(pattern):
        return local_path(fixed).rstrip("/")
    filesystem, path = remote_filesystem(fixed)
    return str(filesystem.unstrip_protocol(path)).rstrip(
        "/"
    )  # as listings write it: s3a:// becomes s3://


def _below(root: str, url: str) -> str:
    return url[len(root) + 1 :] if url.startswith(root + "/") else url.rpartition("/")[2]
