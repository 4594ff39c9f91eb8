"""Storage: what a pattern names, what identifies a file, ranged reads and atomic writes.

A write never shows half a file.
"""

import io
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import braceexpand
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.storage.files import (
    FileIdentity,
    atomic_write,
    exists,
    is_remote,
    join,
    list_files,
    make_directory,
    open_ranged,
    read_bytes,
    remove,
)
from shards.storage.ranged_reader import MAX_WINDOW_BYTES, MIN_WINDOW_BYTES, RemoteReader
from shards.storage.urls import expand_braces

# Writes "new" and is killed inside the block, or where `patch` says.
KILLED_WRITER = """
import os, signal, sys
from shards.storage.files import atomic_write
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
{patch}
with atomic_write(sys.argv[1]) as stream:
    stream.write(b"new")
    stream.flush()
    {die}
"""
LATE = "rename = os.replace; os.replace = lambda *paths: (rename(*paths), die())"


@pytest.fixture(params=["local", "file", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder: a path, a file:// URL, or a URL in fsspec's memory."""
    if request.param != "memory":
        yield str(tmp_path) if request.param == "local" else f"file://{tmp_path}"
        return
    name = uuid.uuid4().hex
    yield f"memory://{name}"
    filesystem = fsspec.filesystem("memory")
    if filesystem.exists(f"/{name}"):
        filesystem.rm(f"/{name}", recursive=True)


def put(folder: str, name: str, data: bytes = b"x") -> str:
    url = join(folder, *name.split("/"))
    make_directory(url.rpartition("/")[0])
    with atomic_write(url) as stream:
        stream.write(data)
    return url


def names_in(folder: str) -> list[str]:
    """Every file in the folder, hidden ones included, as the file system itself lists them."""
    if is_remote(folder):
        return sorted(path.rpartition("/")[2] for path in fsspec.filesystem("memory").find(folder))
    return sorted(os.listdir(folder.removeprefix("file://")))


# Patterns.


def relative_names(pattern: str, folder: str, suffix: str = ".tar") -> list[str]:
    root = folder.removeprefix("file://").removeprefix("memory://")
    return [
        identity.url.partition(root + "/")[2] for identity in list_files(pattern, suffix=suffix)
    ]


def test_a_pattern_is_a_file_a_glob_a_directory_or_braces(folder: str) -> None:
    """Each form of a pattern names the same files, sorted and once each."""
    for name in ("b.tar", "a.tar", "deep/er/c.tar", "a.txt", "t-08.tar", "t-09.tar", "t-10.tar"):
        put(folder, name)
    every = ["a.tar", "b.tar", "deep/er/c.tar", "t-08.tar", "t-09.tar", "t-10.tar"]

    assert relative_names(folder, folder) == every
    assert relative_names(folder + "/", folder) == every
    assert relative_names(join(folder, "a.txt"), folder) == ["a.txt"]

    assert relative_names(join(folder, "*.tar"), folder) == [
        name for name in every if "/" not in name
    ]
    assert relative_names(join(folder, "**", "*.tar"), folder) == every
    assert relative_names(join(folder, "{b,a}.t[ax]r"), folder) == ["a.tar", "b.tar"]

    assert relative_names(join(folder, "t-{08..10}.tar"), folder) == [
        "t-08.tar",
        "t-09.tar",
        "t-10.tar",
    ]
    assert relative_names(join(folder, "{a.tar,*.tar,deep}"), folder) == every

    assert relative_names(folder, folder, suffix=".txt") == ["a.txt"]


def test_names_with_wildcard_characters_can_be_given_literally(folder: str) -> None:
    """A file that exists under the very name of the pattern is that file."""
    put(folder, "take[1].tar")
    put(folder, "take1.tar")
    assert relative_names(join(folder, "take[1].tar"), folder) == ["take[1].tar"]


def test_hidden_files_are_not_listed_unless_named(folder: str) -> None:
    """Unfinished files begin with a dot; neither a wildcard nor a directory finds them."""
    put(folder, "a.tar")
    put(folder, ".b.tar")
    put(folder, ".hidden/c.tar")
    assert relative_names(folder, folder) == ["a.tar"]
    assert relative_names(join(folder, "*.tar"), folder) == ["a.tar"]
    assert relative_names(join(folder, ".b.tar"), folder) == [".b.tar"]


@pytest.mark.parametrize("pattern", ["c.tar", "*.tar", "", "{a,c}.txt", "{0..9}.tar"])
def test_a_pattern_that_names_nothing_is_refused_with_a_remedy(folder: str, pattern: str) -> None:
    """A pattern that names nothing is refused, even as one of several alternatives.

    A shard must not drop out unnoticed.
    """
    put(folder, "a.txt")
    with pytest.raises(ConfigError, match=r"nothing found, expected .* quote globs"):
        list_files(join(folder, pattern) if pattern else folder)


def test_local_files_are_listed_by_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed paths are absolute, so a worker in another directory opens the same file."""
    put(str(tmp_path), "a.tar")
    monkeypatch.chdir(tmp_path)
    assert [identity.url for identity in list_files("*.tar")] == [str(tmp_path / "a.tar")]


@pytest.mark.parametrize("pattern", ["*.tar", ""])
def test_a_link_to_nothing_is_refused(tmp_path: Path, pattern: str) -> None:
    """A link to nothing is refused, so that its shard does not drop out unnoticed."""
    put(str(tmp_path), "a.tar")
    (tmp_path / "b.tar").symlink_to("gone.tar")
    with pytest.raises(ConfigError, match=r"b.tar: leads to gone.tar, expected a file"):
        list_files(f"{tmp_path}/{pattern}")


def test_only_files_are_files(tmp_path: Path) -> None:
    """A named pipe that looks like a shard is not listed, and nobody waits for it."""
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(ConfigError, match="nothing found"):
        list_files(str(tmp_path / "*.tar"))
    with pytest.raises(OSError, match="not a regular file"):
        open_ranged(str(tmp_path / "pipe.tar"))
    with pytest.raises(OSError, match="regular"):
        open_ranged(str(tmp_path))


@pytest.mark.parametrize(
    "pattern",
    [
        "a",
        "{a,b}",
        "x{a,b}{c,d}y",
        "{a,{b,c}}",
        "s-{000..012}.tar",
        "{8..11}",
        "{a,}b",
        "{b}",
        "{}",
    ],
)
def test_braces_expand_as_the_braceexpand_package_does(pattern: str) -> None:
    """The supported forms of braces mean the same to bash and webdataset."""
    assert expand_braces(pattern) == list(braceexpand.braceexpand(pattern))


def test_a_lone_brace_is_a_character() -> None:
    """A lone brace is part of a name, unlike in braceexpand, which raises."""
    assert expand_braces("a{b") == ["a{b"]


@pytest.mark.parametrize("pattern", ["{0..99999999999999999999}", "{00..99}" * 4, "{9..0}"])
def test_braces_without_end_are_refused(pattern: str) -> None:
    """Braces that name too many files are refused: a typing error must not fill the memory."""
    with pytest.raises(ConfigError):
        expand_braces(pattern)


# Identity.


def test_identity_changes_with_the_content_and_not_with_the_way_it_is_listed(folder: str) -> None:
    """A file has one identity by name, glob and directory, and another after it is written."""
    url = put(folder, "a.tar", b"12345")
    (identity,) = list_files(url)
    assert identity == list_files(join(folder, "*"))[0] == list_files(folder)[0]
    assert (identity.size, identity.name) == (5, "a.tar")
    assert read_bytes(identity.url, max_bytes=5) == b"12345"
    put(folder, "a.tar", b"54321")
    assert list_files(folder)[0].version != identity.version


def test_a_listing_takes_the_etag_of_s3() -> None:
    """The ETag that s3fs lists, without its quotes, is the version of a file."""
    listed = {
        "name": "bucket/a.tar",
        "size": 3,
        "type": "file",
        "ETag": '"d41d8"',
        "LastModified": "today",
    }

    class Listing(fsspec.AbstractFileSystem):
        protocol = "etagged"

        def ls(self, path: str, detail: bool = True, **_: object) -> list[dict[str, object]]:
            return [listed]

        def info(self, path: str, **_: object) -> dict[str, object]:
            if path == "bucket/a.tar":
                return listed
            raise FileNotFoundError(path)

    fsspec.register_implementation("etagged", Listing, clobber=True)

    expected = FileIdentity(url="etagged://bucket/a.tar", size=3, version="d41d8")
    assert (
        list_files("etagged://bucket/a.tar") == list_files("etagged://bucket/*.tar") == [expected]
    )

    del listed["ETag"], listed["LastModified"]
    with pytest.raises(ConfigError, match="no version"):
        list_files("etagged://bucket/a.tar")


# Small operations.


def test_files_are_found_read_and_removed(folder: str) -> None:
    """The small operations do the same for a path and for a URL."""
    url = join(folder, "sub", "a.bin")
    assert not exists(url)

    put(folder, "sub/a.bin", b"abc")
    assert exists(url)
    assert read_bytes(url, max_bytes=3) == b"abc"

    with pytest.raises(ValueError, match="got 3 bytes, expected at most 2"):
        read_bytes(url, max_bytes=2)

    remove(url)
    assert not exists(url)

    for operation in (remove, open_ranged):
        with pytest.raises(FileNotFoundError):
            operation(url)


def test_joining_keeps_the_kind_of_path() -> None:
    """Each part adds one slash to a path or URL."""
    assert join("/data", "a", "b.tar") == "/data/a/b.tar"
    assert join("data/", "a") == "data/a"
    assert join("s3://bucket/", "a", "b.tar") == "s3://bucket/a/b.tar"
    assert join("memory://x", "/a/", "b") == "memory://x/a/b"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a", False),
        ("a/b", False),
        ("file:///a", False),
        ("s3://b/k", True),
        ("hf://datasets/x", True),
        ("c:", False),
    ],
)
def test_urls_are_told_from_paths(url: str, expected: bool) -> None:
    """A file:// URL is local; all other schemes go through fsspec."""
    assert is_remote(url) is expected


@pytest.mark.parametrize("url", ["gs://bucket/*.tar", "foo://bucket/*.tar"])
def test_storage_without_its_library_is_told(url: str) -> None:
    """A scheme that nothing here can read is an unusable option with a remedy."""
    with pytest.raises(ConfigError, match=rf"{url[:3]}.*emostream doctor"):
        list_files(url)


def test_what_a_storage_raises_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing credentials are reported as an unusable option.

    An error that the operating system knows stays as it is.
    """

    class NoCredentialsError(Exception):
        pass

    def refuse(error: Exception) -> Callable[..., bool]:
        def exists(*_: object, **__: object) -> bool:
            raise error

        return exists

    monkeypatch.setattr(
        MemoryFileSystem, "exists", refuse(NoCredentialsError("unable to locate credentials"))
    )
    with pytest.raises(
        ConfigError,
        match=r"memory://x/\*.tar: NoCredentialsError: unable .*check the storage's own",
    ):
        list_files("memory://x/*.tar")
    monkeypatch.setattr(MemoryFileSystem, "exists", refuse(PermissionError("not yours")))
    with pytest.raises(PermissionError):
        list_files("memory://x/*.tar")


def test_schemes_may_be_written_large(folder: str) -> None:
    """A URL's scheme may be in capitals."""
    url = put(folder, "a.tar", b"abc")
    scheme, separator, rest = url.rpartition("://")
    large = f"{scheme.upper()}{separator}{rest}"
    assert read_bytes(large, max_bytes=3) == b"abc"
    assert [file.size for file in list_files(large)] == [3]


# Ranged reads.


def test_ranges_are_read_short_only_at_the_end(folder: str) -> None:
    """Any range gives the bytes that are there, and closing twice is harmless."""
    data = random.Random(0).randbytes(300_000)
    url = put(folder, "a.bin", data)
    with open_ranged(url) as reader:
        assert reader.size == len(data)
        for offset, length in itertools.product(
            [0, 1, 70_000, 299_999, 300_000, 400_000], [0, 1, 65_536, 400_000]
        ):
            assert reader.read_at(offset, length) == data[offset : offset + length]
    reader.close()


@settings(max_examples=60, deadline=None)
@given(
    reads=st.lists(st.tuples(st.integers(0, 3_000_000), st.integers(0, 400_000)), max_size=12),
    extra=st.integers(0, 12 << 20),
)
def test_the_remote_window_returns_what_is_there_and_stays_bounded(
    reads: list[tuple[int, int]], extra: int
) -> None:
    """The bytes are right, whatever the order and size of reads.

    No more bytes than the window are kept.
    """
    data = PATTERN
    reader = RemoteReader(io.BytesIO(data), len(data))
    for offset, length in [*reads, (0, extra), *reads]:
        assert reader.read_at(offset, length) == data[offset : offset + length]
        assert len(reader._window) <= MAX_WINDOW_BYTES


PATTERN = random.Random(1).randbytes(13 << 20)


def test_the_remote_window_grows_when_reading_on_and_shrinks_after_a_jump() -> None:
    """Sequential reads double the request up to a bound; a far jump begins small again."""
    requests: list[int] = []

    class Recording(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            requests.append(size or 0)
            return super().read(size)

    reader = RemoteReader(Recording(PATTERN), len(PATTERN))
    for offset in range(0, 2 << 20, 1 << 14):
        reader.read_at(offset, 1 << 14)
    assert requests == [MIN_WINDOW_BYTES << n for n in range(6)]

    requests.clear()
    reader.read_at(12 << 20, 100)
    assert requests == [MIN_WINDOW_BYTES]


def test_a_remote_read_that_arrives_in_pieces_is_put_together() -> None:
    """A range is whole, even if the file object returns fewer bytes than asked for."""

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size or 0, 1000))

    assert (
        RemoteReader(Dripping(PATTERN[:100_000]), 100_000).read_at(50, 90_000) == PATTERN[50:90_050]
    )


# Atomic writes.


def test_a_file_appears_whole_or_not_at_all(folder: str) -> None:
    """While a file is written, nothing is at its URL, and no listing shows it unfinished."""
    url = join(folder, "a.tar")
    with atomic_write(url) as stream:
        stream.write(b"half")
        stream.flush()
        assert not exists(url)
        assert all(name.startswith(".") for name in names_in(folder))
        stream.write(b" and half")

    assert read_bytes(url, max_bytes=100) == b"half and half"
    assert names_in(folder) == ["a.tar"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    folder: str, error: type[BaseException]
) -> None:
    """Any exception in the middle of a write leaves everything as it was."""
    url = put(folder, "a.tar", b"old")

    def fail() -> None:
        with atomic_write(url) as stream:
            stream.write(b"new, but")
            raise error("in the middle")

    with pytest.raises(error, match="in the middle"):
        fail()
    assert read_bytes(url, max_bytes=100) == b"old"
    assert names_in(folder) == ["a.tar"]


def test_writers_of_one_file_do_not_mix(folder: str) -> None:
    """After eight writers at once, the whole file of one of them is there, and nothing else."""
    url = join(folder, "a.tar")
    started = threading.Barrier(8, timeout=30)

    def write(number: int) -> None:
        with atomic_write(url) as stream:
            started.wait()
            for _ in range(50):
                stream.write(bytes([number]) * 1000)

    # Why a barrier in `write`: all eight files are open before the first is complete.
    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_bytes(url, max_bytes=100_000) in [bytes([number]) * 50_000 for number in range(8)]
    assert names_in(folder) == ["a.tar"]


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ("", b"old"),
        ("os.fsync = lambda _: die()", b"old"),
        ("os.replace = lambda *_: die()", b"old"),
        (LATE, b"new"),
    ],
    ids=["amid the bytes", "before they are on disk", "before the rename", "after the rename"],
)
def test_a_writer_that_is_killed_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, patch: str, expected: bytes
) -> None:
    """Wherever SIGKILL strikes, nobody sees half a file.

    What is left is not in the way of the next writer.
    """
    target = tmp_path / "a.tar"
    target.write_bytes(b"old")
    die_inside = "" if patch else "die()"

    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER.format(patch=patch, die=die_inside), target],
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == expected
    assert [file.url for file in list_files(f"{tmp_path}/*")] == [str(target)]

    with atomic_write(str(target)) as stream:
        stream.write(b"newer")
    assert target.read_bytes() == b"newer"


def test_a_missing_folder_is_an_error_at_once(tmp_path: Path) -> None:
    """A local folder is not created: a wrong output path should be seen."""
    with (
        pytest.raises(FileNotFoundError),
        atomic_write(str(tmp_path / "missing" / "a.tar")) as stream,
    ):
        stream.write(b"x")


def test_an_upload_that_fails_is_thrown_away_and_never_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an error an upload is discarded, as closing publishes on an object store."""
    events: list[str] = []

    class Upload(io.BytesIO):
        closed = False

        def close(self) -> None:
            if not self.closed:
                events.append("published")

        def discard(self) -> None:
            events.append("discarded")

    class Bucket(fsspec.AbstractFileSystem):
        protocol = "bucket"

        def _open(self, path: str, mode: str = "rb", **_: object) -> Upload:
            return Upload()

    def fail() -> None:
        with atomic_write("bucket://b/a.tar") as stream:
            stream.write(b"x")
            raise RuntimeError("in the middle")

    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr("shards.storage.files._PUBLISH_ON_CLOSE", frozenset({"bucket"}))
    with atomic_write("bucket://b/a.tar") as stream:
        stream.write(b"x")
    with pytest.raises(RuntimeError, match="in the middle"):
        fail()
    assert events == ["published", "discarded"]
