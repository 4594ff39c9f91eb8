"""Files by path or URL: listing with identity, and writing so that half a file is never seen.

Local files go through `os` alone, and remote files through fsspec. Local files do not go through
fsspec because its class for local files gives no modification time in nanoseconds, no fsync and no
`pread`.
"""

import glob
import os
import re
import shutil
import tempfile
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
    "NewFile",
    "RangedReader",
    "atomic_write",
    "exists",
    "is_remote",
    "join",
    "list_files",
    "make_directory",
    "name_later",
    "open_ranged",
    "read_bytes",
    "remove",
]

# On these storages a file appears, or is replaced, in one step when its writer is closed.
_PUBLISH_ON_CLOSE = frozenset({"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss"})
# These storages have no folders to make. On s3, fsspec's makedirs would create a missing bucket
# instead of reporting it.
_FLAT = _PUBLISH_ON_CLOSE | {"memory"}
# The size of each part of a multi-part upload; a part is held in memory. S3 wants parts of at least
# 5 MiB and takes at most 10,000 of them.
_UPLOAD_PART_BYTES = 16 << 20
# The fields of a listing that change with the content of a file; the first field found counts. In
# order, they are the fields of s3 and http, hf, gs, az, file servers, and memory. The field of gs
# comes before `etag`, because the etag of gs changes with a file's metadata too.
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
# From this many names on, one listing of their folder is cheaper than one request for each name.
_NAMES_WORTH_A_LISTING = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """A file as a listing describes it: another `version` or `size` means other content.

    `version` is the modification time in nanoseconds for a local file. For a remote file it is the
    ETag, or what the storage has in place of an ETag.
    """

    url: str
    size: int
    version: str

    @property
    def name(self) -> str:
        """The last component of the URL."""
        return self.url.rpartition("/")[2]


def list_files(pattern: str, *, suffix: str = ".tar") -> list[FileIdentity]:
    """The files that `pattern` names, sorted by URL; local files have their absolute path as URL.

    `pattern` is a file, a glob, or a directory (every `*suffix` under it), with `{a,b}` and
    `{000..010}` expanded first. A wildcard does not match names that begin with a dot, because
    unfinished files have such names. No file is opened. Raises ConfigError when an alternative of
    the pattern matches nothing, so that a missing shard is noticed: of `{a,b}.tar`, both files must
    be there.
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
            expected = f"a file, a glob that matches a file, or a directory with *{suffix} files"
            raise ConfigError(
                f"{alternative}: nothing found, expected {expected}; quote globs, so that the "
                "shell does not expand them"
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
    """The content of a small file.

    Raises ValueError when the file is larger than `max_bytes`, and OSError when it cannot be read.
    """
    with open_ranged(url) as reader:
        if reader.size > max_bytes:
            raise ValueError(
                f"{url}: got {reader.size} bytes, expected at most {max_bytes}; check that it is "
                "the right file"
            )
        return reader.read_at(0, reader.size)


def make_directory(url: str) -> None:
    """Make the directory `url` and its parents.

    Nothing is done where the directory exists, or on an object store, which has no directories.
    """
    if not is_remote(url):
        os.makedirs(local_path(url), exist_ok=True)
    elif scheme_of(url) not in _FLAT:
        filesystem, path = remote_filesystem(url)
        filesystem.makedirs(path, exist_ok=True)


def remove(url: str) -> None:
    """Delete the file at `url`. Raises FileNotFoundError when there is no such file."""
    if not is_remote(url):
        os.unlink(local_path(url))
        return

    filesystem, path = remote_filesystem(url)
    # Object stores report no error when they delete a file that is not there.
    if not filesystem.exists(path):
        raise FileNotFoundError(url)
    filesystem.rm_file(path)


@contextmanager
def atomic_write(url: str) -> Iterator[BinaryIO]:
    """A stream whose content appears at `url` as a whole when the block ends.

    Nothing appears when the block raises. Two writers of the same URL do not mix: each writer has
    its own temporary file or upload, and the writer that finishes last wins.
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


@dataclass(slots=True)
class NewFile:
    """A file that is written before its name is known; without a name, it never appears."""

    stream: BinaryIO
    name: str | None = None


@contextmanager
def name_later(folder: str, placeholder: str) -> Iterator[NewFile]:
    """A file in `folder` whose name follows from its content; the block sets the `name`.

    Everything else is as with `atomic_write`; the temporary file tells the `placeholder` as the
    name that it was to get. Object stores want the name first: the content waits in a temporary
    file of this machine until it is known.
    """
    if not is_remote(folder):
        with _name_local(local_path(folder), placeholder) as new:
            yield new
        return

    filesystem, path = remote_filesystem(folder)
    if scheme_of(folder) not in _PUBLISH_ON_CLOSE:
        with _name_and_move(filesystem, path.rstrip("/"), placeholder) as new:
            yield new
        return

    with tempfile.TemporaryFile() as spool:
        new = NewFile(cast(BinaryIO, spool))
        yield new
        if new.name is not None:
            spool.seek(0)
            with _write_upload(filesystem, join(path, new.name)) as stream:
                shutil.copyfileobj(spool, stream, _UPLOAD_PART_BYTES)


def without_globs(name: str) -> str:
    """`name` with "_" in place of each wildcard character.

    fsspec's `mv` would take brackets in the name of a temporary file for a wildcard.
    """
    return re.sub(r"[][*?]", "_", name)


def temporary_name(name: str) -> str:
    """A new name for the file `name` while it is written: hidden, and unique to its writer.

    For example, `.a.tar.tmp-3f2e...` for `a.tar`; `written_name` is the inverse.
    """
    return f".{without_globs(name)}.tmp-{uuid.uuid4().hex}"


def written_name(name: str) -> str | None:
    """The name that a temporary file was to get, `without_globs`; None for any other file.

    The name is empty for `.tmp-3f2e...`, a temporary file that does not tell its name.
    """
    match = _TEMPORARY.fullmatch(name)
    return None if match is None else match[1] or ""


def probe(folder: str, num_bytes: int) -> None:
    """Test a folder: write a file of `num_bytes` random bytes, read it back, and remove it.

    Raises whatever the storage raises, and OSError when the bytes read are not the bytes written.
    """
    url, payload = join(folder, f".probe-{uuid.uuid4().hex}"), os.urandom(num_bytes)
    with atomic_write(url) as stream:
        stream.write(payload)

    try:
        if read_bytes(url, max_bytes=num_bytes) != payload:
            raise OSError("the bytes read back differ from the bytes written")
    finally:
        remove(url)


def flush(path: str | os.PathLike[str]) -> None:
    """Force the content of a local file, or the list of names in a local folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def flush_tree(folder: Path) -> None:
    """Force a local folder onto the disk, with the names and the content of all files below it."""
    for path in (*folder.rglob("*"), folder):
        flush(path)


@contextmanager
def _write_local(path: str) -> Iterator[BinaryIO]:
    folder, name = os.path.split(path)
    with _name_local(folder, name) as new:
        yield new.stream
        new.name = name


@contextmanager
def _name_local(folder: str, placeholder: str) -> Iterator[NewFile]:
    temporary = os.path.join(folder, temporary_name(placeholder))

    try:
        with open(temporary, "xb") as stream:
            new = NewFile(stream)
            yield new
            # The content must be on the disk before the file gets its name: otherwise a crash of
            # the machine could leave half a file under the final name.
            stream.flush()
            os.fsync(stream.fileno())
        if new.name is None:
            os.unlink(temporary)
        else:
            os.replace(temporary, os.path.join(folder, new.name))
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise

    # The new name is on the disk only when the directory is.
    flush(folder)


@contextmanager
def _write_upload(filesystem: Any, path: str) -> Iterator[BinaryIO]:
    stream = filesystem.open(path, "wb", block_size=_UPLOAD_PART_BYTES)
    try:
        yield cast(BinaryIO, stream)
        stream.close()
    except BaseException:
        # Closing the stream would publish what has been written so far. The garbage collector would
        # close the stream too, unless it is marked as closed.
        stream.closed = True
        stream.discard()
        raise


@contextmanager
def _write_and_move(filesystem: Any, path: str) -> Iterator[BinaryIO]:
    folder, _, name = path.rpartition("/")
    with _name_and_move(filesystem, folder, name) as new:
        yield new.stream
        new.name = name


@contextmanager
def _name_and_move(filesystem: Any, folder: str, placeholder: str) -> Iterator[NewFile]:
    temporary = f"{folder}/{temporary_name(placeholder)}"

    try:
        with filesystem.open(temporary, "wb") as stream:
            new = NewFile(cast(BinaryIO, stream))
            yield new
        if new.name is None:
            filesystem.rm_file(temporary)
        else:
            filesystem.mv(temporary, f"{folder}/{new.name}")
    except BaseException:
        if filesystem.exists(temporary):
            filesystem.rm_file(temporary)
        raise


def _list_local(patterns: list[str], suffix: str) -> Iterator[list[FileIdentity]]:
    for path in map(local_path, patterns):
        files: list[str] = []

        # A path that exists is no glob, even when its name looks like a glob: `take[1].tar`.
        for match in [path] if os.path.exists(path) else glob.glob(path, recursive=True):
            if os.path.isdir(match):
                files.extend(_files_under(match, suffix))
            # A match that does not exist is a link to a missing file. It is kept here, so that
            # `_local_identity` refuses it.
            elif os.path.isfile(match) or not os.path.exists(match):
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
            f"{path}: leads to {target}, expected a file; restore the file, or remove the link"
        ) from error

    return FileIdentity(url=path, size=status.st_size, version=str(status.st_mtime_ns))


@contextmanager
def _storage_problems(url: str) -> Iterator[None]:
    """Turn the errors of a storage's own library, such as missing credentials, into ConfigError."""
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
    # `remote_filesystem` clears what fsspec remembers of one folder; the patterns may name others.
    filesystem.invalidate_cache()

    paths = [strip_protocol(absolute(pattern)) for pattern in patterns]
    if len(paths) >= _NAMES_WORTH_A_LISTING:
        for folder in {path.rpartition("/")[0] for path in paths if not glob.has_magic(path)}:
            # fsspec remembers the listing, and answers the questions below from memory.
            with suppress(FileNotFoundError):
                filesystem.ls(folder, detail=True)

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
            f"{url}: the storage lists this file with no size or no version (ETag, modification "
            "time); copy the file to another storage"
        )

    if isinstance(version, datetime):
        version = version.timestamp()

    return FileIdentity(url=url, size=int(info["size"]), version=str(version).strip('"'))
