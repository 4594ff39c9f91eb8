"""Files by path or URL: listing shards with their identity, and writing so that half a file never
shows.

Local files go through `os` alone, remote ones through fsspec. Wrapping local files in fsspec too
was left out: its local class gives no nanosecond modification time, no fsync and no `pread`.
"""

import glob
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from fsspec.core import strip_protocol

from shards.config import ConfigError
from shards.storage.ranged_reader import RangedReader, open_ranged
from shards.storage.urls import (
    absolute,
    expand_braces,
    is_remote,
    join,
    local_path,
    remote_filesystem,
    scheme_of,
)

__all__ = [
    "FileIdentity",
    "RangedReader",
    "atomic_write",
    "exists",
    "is_remote",
    "join",
    "list_files",
    "make_directory",
    "open_ranged",
    "read_bytes",
    "remove",
]

# A file in these appears, or is replaced, in one step when its writer is closed.
_PUBLISH_ON_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss"})
# These have no folders to make. (fsspec's makedirs on s3 would rather create a missing bucket than
# say so.)
_FLAT = _PUBLISH_ON_CLOSE | {"memory"}
# Parts of a multi-part upload, held in memory: S3 wants at least 5 MiB and takes 10,000 of them.
_UPLOAD_PART_BYTES = 16 << 20
# What listings call the thing that changes with the content: s3 and http, hf, gs (whose etag
# changes with metadata too), az, file servers, memory.
_VERSION_FIELDS = (
    "ETag",
    "blob_id",
    "generation",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "created",
)
_TEMPORARY = re.compile(r"\.(?:(.+)\.)?tmp-[0-9a-f]+")
# From this many names on, listing their folder once is cheaper than asking for each.
_NAMES_WORTH_A_LISTING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """A file as its listing describes it: another `version` or `size` means other content.

    `version` is the modification time in nanoseconds locally, and the ETag or what comes next to it
    remotely.
    """

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last component of the URL."""
        return self.url.rpartition("/")[2]


def list_files(pattern: str, *, suffix: str = ".tar") -> list[FileIdentity]:
    """The files `pattern` names, sorted by URL, none opened; local ones with their absolute path.

    `pattern` is a file, a glob, or a directory (every `*suffix` under it), with `{a,b}` and
    `{000..010}` expanded first. A wildcard does not match names that begin with a dot, which is how
    unfinished files are named. Raises ConfigError when an alternative of the pattern matches
    nothing: a missing shard must not go unnoticed.
    """
    alternatives = expand_braces(pattern)
    if is_remote(pattern):
        with _storage_problems(pattern):
            listing = list(_list_remote(alternatives, suffix))
    else:
        listing = list(_list_local(alternatives, suffix))
    found: dict[str, FileIdentity] = {}
    for alternative, files in zip(alternatives, listing, strict=True):
        if not files:
            expected = f"a file, a glob that matches, or a directory with *{suffix} in it"
            raise ConfigError(
                f"{alternative}: nothing found, expected {expected}; quote globs, or the shell "
                "expands them"
            )
        found.update((identity.url, identity) for identity in files)
    return sorted(found.values(), key=lambda identity: identity.url)


def exists(url: str) -> bool:
    """Whether there is a file or directory at `url` now."""
    if not is_remote(url):
        return os.path.exists(local_path(url))
    filesystem, path = remote_filesystem(url)
    return bool(filesystem.exists(path))


def read_bytes(url: str, *, max_bytes: int) -> bytes:
    """The content of a small file. Raises ValueError when it is larger than `max_bytes`, OSError
    when unreadable.
    """
    with open_ranged(url) as reader:
        if reader.size > max_bytes:
            raise ValueError(
                f"{url}: got {reader.size} bytes, expected at most {max_bytes}; is it the right "
                "file?"
            )
        return reader.read_at(0, reader.size)


def make_directory(url: str) -> None:
    """Make `url` and its parents; nothing to do where it exists, or on an object store, which has
    no directories.
    """
    if not is_remote(url):
        os.makedirs(local_path(url), exist_ok=True)
    elif scheme_of(url) not in _FLAT:
        filesystem, path = remote_filesystem(url)
        filesystem.makedirs(path, exist_ok=True)


def remove(url: str) -> None:
    """Delete one file. Raises FileNotFoundError when there is none."""
    if not is_remote(url):
        os.unlink(local_path(url))
        return
    filesystem, path = remote_filesystem(url)
    if not filesystem.exists(path):  # object stores delete what is not there without a word
        raise FileNotFoundError(url)
    filesystem.rm_file(path)


@contextmanager
def atomic_write(url: str) -> Iterator[BinaryIO]:
    """A stream whose content appears at `url` whole when the block ends, and not at all when it
    raises.

    Two writers of one URL do not meet: each has a temporary file, or upload, of its own, and the
    last to finish wins.
    """
    if not is_remote(url):
        with _write_local(local_path(url)) as stream:
            yield stream
        return
    filesystem, path = remote_filesystem(url)
    if scheme_of(url) in _PUBLISH_ON_CLOSE:
        with _write_upload(filesystem, path) as stream:
            yield stream
    else:
        with _write_and_move(filesystem, path) as stream:
            yield stream


def without_globs(name: str) -> str:
    """`name` with "_" for wildcards, for which fsspec's `mv` would take brackets in a temporary
    file's name.
    """
    return re.sub(r"[][*?]", "_", name)


def temporary_name(name: str) -> str:
    """What a file is called until it is whole: hidden, of this writer alone, and `written_name`
    tells what it is of.
    """
    return f".{without_globs(name)}.tmp-{uuid.uuid4().hex}"


def written_name(name: str) -> str | None:
    """What a temporary file was to become: its name `without_globs`, or nothing where that is not
    known.

    None for any other file.
    """
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else match[1] or ""


def probe(folder: str, num_bytes: int) -> None:
    """Write, read back and remove a file in `folder`. Raises what the storage raises, OSError for
    other bytes.
    """
    url, payload = join(folder, f".probe-{uuid.uuid4().hex}"), os.urandom(num_bytes)
    with atomic_write(url) as stream:
        stream.write(payload)
    try:
        if read_bytes(url, max_bytes=num_bytes) != payload:
            raise OSError("other bytes came back than were written")
    finally:
        remove(url)


def flush(path: str | os.PathLike[str]) -> None:
    """Have what a local file holds, or which names a local folder holds, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Have a local folder and all below it on the disk: what the files hold, and which there
    are.
    """
    for path in (*folder.rglob("*"), folder):
        flush(path)


@contextmanager
def _write_local(path: str) -> Iterator[BinaryIO]:
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, temporary_name(name))
    try:
        with open(temporary, "xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    flush(folder)  # the rename itself is on disk only when the directory is


@contextmanager
def _write_upload(filesystem: Any, path: str) -> Iterator[BinaryIO]:
    stream = filesystem.open(path, "wb", block_size=_UPLOAD_PART_BYTES)
    try:
        yield cast(BinaryIO, stream)
        stream.close()
    except BaseException:
        # Closing would publish what has been written so far, and so would the garbage collector.
        stream.closed = True
        stream.discard()
        raise


@contextmanager
def _write_and_move(filesystem: Any, path: str) -> Iterator[BinaryIO]:
    folder, _, name = path.rpartition("/")
    temporary = f"{folder}/{temporary_name(name)}"
    try:
        with filesystem.open(temporary, "wb") as stream:
            yield cast(BinaryIO, stream)
        filesystem.mv(temporary, path)
    except BaseException:
        if filesystem.exists(temporary):
            filesystem.rm_file(temporary)
        raise


def _list_local(patterns: list[str], suffix: str) -> Iterator[list[FileIdentity]]:
    for path in map(local_path, patterns):
        files: list[str] = []
        for match in [path] if os.path.exists(path) else glob.glob(path, recursive=True):
            if os.path.isdir(match):
                files.extend(_files_under(match, suffix))
            elif os.path.isfile(match) or not os.path.exists(
                match
            ):  # a link to nothing is refused below
                files.append(match)
        yield [_local_identity(file) for file in files]


def _files_under(directory: str, suffix: str) -> Iterator[str]:
    for folder, subfolders, names in os.walk(directory):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        for name in names:
            if name.endswith(suffix) and not name.startswith("."):
                yield os.path.join(folder, name)


def _local_identity(path: str) -> FileIdentity:
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        target = os.readlink(path) if os.path.islink(path) else "a file that has just been removed"
        raise ConfigError(
            f"{path}: leads to {target}, expected a file; restore it, or remove the link"
        ) from error
    return FileIdentity(url=path, size=status.st_size, version=str(status.st_mtime_ns))


@contextmanager
def _storage_problems(url: str) -> Iterator[None]:
    """Raise ConfigError for what a storage's own library raises, such as missing credentials."""
    try:
        yield
    except (ConfigError, OSError):
        raise
    except Exception as error:
        raise ConfigError(
            f"{url}: {type(error).__name__}: {error}; check the storage's own configuration "
            "(AWS_*, HF_TOKEN) here and on the workers"
        ) from error


def _list_remote(patterns: list[str], suffix: str) -> Iterator[list[FileIdentity]]:
    filesystem, _ = remote_filesystem(patterns[0])
    filesystem.invalidate_cache()
    paths = [strip_protocol(absolute(pattern)) for pattern in patterns]
    if len(paths) >= _NAMES_WORTH_A_LISTING:
        for folder in {path.rpartition("/")[0] for path in paths if not glob.has_magic(path)}:
            with suppress(FileNotFoundError):
                filesystem.ls(
                    folder, detail=True
                )  # fsspec remembers it, and answers what follows from memory
    for path in paths:
        matches = (
            {path: filesystem.info(path)}
            if filesystem.exists(path)
            else filesystem.glob(path, detail=True)
        )
        files: dict[str, Any] = {}
        for name, info in matches.items():
            if info["type"] == "directory":
                files.update(_remote_files_under(filesystem, name, suffix))
            elif name == path or not _hidden(name):
                files[name] = info
        yield [
            _remote_identity(filesystem.unstrip_protocol(name), info)
            for name, info in files.items()
        ]


def _remote_files_under(filesystem: Any, folder: str, suffix: str) -> Iterator[tuple[str, Any]]:
    for name, info in filesystem.find(folder, detail=True).items():
        if name.endswith(suffix) and "/." not in name[len(folder) :]:
            yield name, info


def _hidden(path: str) -> bool:
    return path.rpartition("/")[2].startswith(".")


def _remote_identity(url: str, info: dict[str, Any]) -> FileIdentity:
    version = next((info[field] for field in _VERSION_FIELDS if info.get(field)), None)
    if version is None or info.get("size") is None:
        raise ConfigError(
            f"{url}: its listing gives no size or no version (ETag, modification time); copy it "
            "elsewhere"
        )
    if isinstance(version, datetime):
        version = version.timestamp()
    return FileIdentity(url=url, size=int(info["size"]), version=str(version).strip('"'))
