"""Reading ranges of a file that may be local or remote, with bounded memory.

Local files are read with `pread` on one descriptor: there is no seek and no buffer to invalidate. A
file that shrinks while it is read gives short reads, where a memory map would kill the process.

Remote files are read through one window that adapts like a kernel's read-ahead. A jump to another
part of the file fetches 64 KiB. A fetch that begins in the window, or at most 2 MiB after its end,
doubles the window, up to 8 MiB. An object store takes some 30 to 50 ms to answer and then sends
about 50 to 100 MB/s, so a request costs as much as 2 to 5 MB: a smaller gap is cheaper to read than
to skip. Indexing a shard of videos thus costs 64 KiB for each video, and indexing a shard of small
members costs one request for each 8 MiB.

fsspec's own caches were left out: they have one fixed block size, which is wrong for either videos
or small members. What matters works without the caches: s3fs puts the ETag on every request, so
reading an object that is replaced during the read is an error and never gives a mixture.
"""

import os
import stat
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Any, Self

from shards.storage.urls import is_remote, local_path, remote_filesystem

MIN_WINDOW_BYTES = 64 << 10
MAX_WINDOW_BYTES = 8 << 20
MAX_GAP_BYTES = 2 << 20


class RangedReader(ABC):
    """A file of known `size` whose bytes can be read from anywhere, by one thread at a time."""

    size: int

    @abstractmethod
    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from `offset`; fewer only at the end of the file."""

    @abstractmethod
    def close(self) -> None:
        """Release the file; closing again does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class LocalReader(RangedReader):
    """A regular file on this machine."""

    def __init__(self, path: str) -> None:
        # Without O_NONBLOCK, opening a named pipe would wait forever. Regular files ignore this
        # flag.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        status = os.fstat(self._descriptor)

        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise OSError(
                f"{path}: not a regular file; give a file, a pattern or a directory of shards"
            )

        self.size = status.st_size

    def read_at(self, offset: int, length: int) -> bytes:
        data = os.pread(self._descriptor, length, offset)
        if len(data) == length or not data:
            return data

        # One call of pread reads at most 2 GiB, and a signal may stop it earlier.
        parts = [data]
        while data and (length := length - len(data)):
            offset += len(data)
            data = os.pread(self._descriptor, length, offset)
            parts.append(data)

        return b"".join(parts)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class RemoteReader(RangedReader):
    """An open seekable binary file behind a network.

    The file is read through one window of at most 8 MiB, which the module's docstring describes.
    """

    def __init__(self, stream: Any, size: int) -> None:
        self._stream = stream
        self.size = size
        self._window = b""
        self._window_start = 0
        self._window_bytes = MIN_WINDOW_BYTES

    def read_at(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""

        begin = offset - self._window_start
        if begin < 0 or begin + length > len(self._window):
            # A range longer than the largest window is not kept: the window must stay bounded.
            if length > MAX_WINDOW_BYTES:
                return self._fetch(offset, length)
            self._move_window(offset, length)
            begin = 0

        return self._window[begin : begin + length]

    def close(self) -> None:
        self._window = b""
        self._stream.close()

    def _move_window(self, offset: int, length: int) -> None:
        gap = offset - (self._window_start + len(self._window))
        carries_on = offset >= self._window_start and gap <= MAX_GAP_BYTES and self._window
        self._window_bytes = (
            min(2 * self._window_bytes, MAX_WINDOW_BYTES) if carries_on else MIN_WINDOW_BYTES
        )

        # The gap is negative when the new window begins inside the old one. The bytes that both
        # windows share are kept, and only the rest is fetched.
        wanted = min(max(length, self._window_bytes), self.size - offset)
        kept = self._window[offset - self._window_start :] if carries_on and gap < 0 else b""
        self._window = kept + self._fetch(offset + len(kept), wanted - len(kept))
        self._window_start = offset

    def _fetch(self, offset: int, length: int) -> bytes:
        self._stream.seek(offset)
        parts = []
        while length and (data := self._stream.read(length)):
            parts.append(data)
            length -= len(data)

        return parts[0] if len(parts) == 1 else b"".join(parts)


class BytesReader(RangedReader):
    """Bytes already in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self._data[offset : offset + length]

    def close(self) -> None:
        """Do nothing: no file is open."""


def open_ranged(url: str) -> RangedReader:
    """Open `url` for reading ranges. Raises OSError when it cannot be opened."""
    if not is_remote(url):
        return LocalReader(local_path(url))

    filesystem, path = remote_filesystem(url)
    stream = filesystem.open(path, "rb", cache_type="none")
    return RemoteReader(stream, stream.seek(0, os.SEEK_END))
