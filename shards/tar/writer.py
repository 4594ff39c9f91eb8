"""Writing shards: the same samples in the same order give the same bytes, readable by every tar
reader.

USTAR with names in UTF-8, owner 0, time 0, fields of a sample sorted by extension, and exactly two
zero blocks at the end, so that a cut at any byte can be noticed. Padding to 10 KiB records was left
out: cutting it off goes unnoticed and no reader of files needs it. A pax header comes only before
names that do not fit USTAR's 155 + 100 bytes; it is not covered by a checksum, which names in the
header itself are. Python's `tarfile` was left out as the writer: it resorts to a pax header for
every name that is not ASCII.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import BinaryIO, Self

from shards.errors import BadSample
from shards.samples.keys import key_problem, printable
from shards.samples.sample import ALLOWED_EXTENSIONS
from shards.tar.header import BLOCK_BYTES, ZERO_BLOCK

MAX_PAYLOAD_BYTES = 8**11 - 1

_NAME_BYTES = 100
_PREFIX_BYTES = 155


class TarWriter:
    """Writes samples to `stream` one after the other; `close` ends the archive and leaves the
    stream open.

    As a context manager it ends the archive only when the block succeeds: a shard whose writer
    failed stays without an end marker, which every reader here reports.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self._keys: set[str] = set()
        self._closed = False

    def add(self, key: str, members: Mapping[str, bytes]) -> tuple[int, int]:
        """Write one sample, extension -> payload; returns its (offset, size) in the tar.

        Raises BadSample, with nothing written, when a reader would refuse the key or a field.
        """
        self._check(key, members)
        self._keys.add(key)
        offset = self._position
        for extension, payload in sorted(members.items()):
            self._write(_member_header(f"{key}.{extension}".encode(), len(payload)))
            self._write(payload)
            self._write(bytes(-len(payload) % BLOCK_BYTES))
        return offset, self._position - offset

    def close(self) -> None:
        """End the archive; closing again does nothing."""
        if not self._closed:
            self._write(2 * ZERO_BLOCK)
            self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def _check(self, key: str, members: Mapping[str, bytes]) -> None:
        problem = key_problem(key)
        if problem is not None:
            raise BadSample(*problem)
        if self._closed:
            raise ValueError(
                f"sample '{key}': the archive has been closed; add samples before that"
            )
        if key in self._keys:
            raise BadSample("duplicate_key", f"'{key}' is in this shard already")
        if not members:
            raise BadSample("empty_sample", f"'{key}' has no fields")
        for extension, payload in members.items():
            if extension not in ALLOWED_EXTENSIONS:
                known = ", ".join(sorted(ALLOWED_EXTENSIONS))
                raise BadSample(
                    "unknown_extension",
                    f"'{key}' has the field '{printable(extension)}', known: {known}",
                )
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise BadSample(
                    "member_too_large",
                    f"{key}.{extension} has {len(payload)} bytes, tar holds 8 GiB",
                )

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._position += len(data)


def _member_header(name: bytes, size: int) -> bytes:
    if len(name) <= _NAME_BYTES:
        return _ustar_header(name, b"", size, b"0")
    # As much as possible goes into the prefix, up to the last slash that leaves no more than 100
    # bytes behind it.
    cut = name.rfind(b"/", len(name) - _NAME_BYTES - 1, _PREFIX_BYTES + 1)
    if cut > 0:
        return _ustar_header(name[cut + 1 :], name[:cut], size, b"0")
    record = _pax_record(b"path", name)
    extended = (
        _ustar_header(b"././@PaxHeader", b"", len(record), b"x")
        + record
        + bytes(-len(record) % BLOCK_BYTES)
    )
    shortened = name[:_NAME_BYTES].decode("utf-8", "ignore").encode()
    return extended + _ustar_header(shortened, b"", size, b"0")


def _ustar_header(name: bytes, prefix: bytes, size: int, kind: bytes) -> bytes:
    mode, nobody, time = b"0000644\0", b"0000000\0", b"00000000000\0"
    before = name.ljust(100, b"\0") + mode + nobody + nobody + b"%011o\0" % size + time
    link_name, owner_names, no_device = bytes(100), bytes(64), b"0000000\0"
    after = (
        kind
        + link_name
        + b"ustar\x0000"
        + owner_names
        + no_device
        + no_device
        + prefix.ljust(167, b"\0")
    )
    checksum = sum(before) + 8 * 0x20 + sum(after)
    return before + b"%06o\0 " % checksum + after


def _pax_record(name: bytes, value: bytes) -> bytes:
    """`"length name=value\\n"`, where the length counts its own digits."""
    rest = b" " + name + b"=" + value + b"\n"
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest
