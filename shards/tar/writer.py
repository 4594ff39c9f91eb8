"""Writing shards that every tar reader can read; the same samples always give the same bytes.

The format is USTAR with names in UTF-8, owner 0 and time 0. The fields of a sample are sorted by
extension. Exactly two zero blocks end the archive, so that a cut at any byte can be noticed.
Padding to records of 10 KiB was left out: no reader of files needs the padding, and nobody would
notice if it were cut off. A pax header comes only before a name that does not fit USTAR's 155 + 100
bytes, because a checksum covers a name in the header itself but not a name in a pax header. So
Python's `tarfile` was left out as the writer: it writes a pax header for every name that is not
ASCII.
"""

from collections.abc import Mapping
from types import TracebackType
from typing import BinaryIO, Self

from shards.errors import BadSample
from shards.samples.keys import key_problem, printable
from shards.samples.sample import ALLOWED_EXTENSIONS
from shards.tar.header import BLOCK_BYTES, ZERO_BLOCK

# The size field of a header holds 11 octal digits.
MAX_PAYLOAD_BYTES = 8**11 - 1

_NAME_BYTES = 100
_PREFIX_BYTES = 155


class TarWriter:
    """Writes samples to `stream`, one after the other.

    `close` ends the archive and leaves the stream open. As a context manager, a writer ends the
    archive only when the block succeeds: a shard whose writer has failed gets no end marker, which
    every reader of this project reports.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self._keys: set[str] = set()
        self._closed = False

    def add(self, key: str, members: Mapping[str, bytes]) -> tuple[int, int]:
        """Write one sample (extension -> payload), and return its (offset, size) in the tar.

        Raises BadSample, before anything is written, when a reader would refuse the key or a field.
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
                f"sample '{key}': the archive has been closed; add samples before closing it"
            )
        if key in self._keys:
            raise BadSample("duplicate_key", f"key '{key}' is in this shard already")
        if not members:
            raise BadSample("empty_sample", f"sample '{key}' has no fields, expected at least one")

        for extension, payload in members.items():
            if extension not in ALLOWED_EXTENSIONS:
                known = ", ".join(sorted(ALLOWED_EXTENSIONS))
                raise BadSample(
                    "unknown_extension",
                    f"sample '{key}' has the field '{printable(extension)}', expected one of "
                    f"{known}",
                )
            if len(payload) > MAX_PAYLOAD_BYTES:
                raise BadSample(
                    "member_too_large",
                    f"{key}.{extension} has {len(payload)} bytes, expected less than 8 GiB",
                )

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        self._position += len(data)


def _member_header(name: bytes, size: int) -> bytes:
    if len(name) <= _NAME_BYTES:
        return _ustar_header(name, b"", size, b"0")

    # USTAR cuts a long name at a slash, with at most 155 bytes before the slash and at most 100
    # bytes after it. The last such slash is taken.
    cut = name.rfind(b"/", len(name) - _NAME_BYTES - 1, _PREFIX_BYTES + 1)
    if cut > 0:
        return _ustar_header(name[cut + 1 :], name[:cut], size, b"0")

    record = _pax_record(b"path", name)
    extended = (
        _ustar_header(b"././@PaxHeader", b"", len(record), b"x")
        + record
        + bytes(-len(record) % BLOCK_BYTES)
    )
    # The first 100 bytes may end inside a character of several bytes, which is then left out.
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

    # The checksum field itself lies between the two parts, and counts as eight spaces.
    checksum = sum(before) + 8 * 0x20 + sum(after)
    return before + b"%06o\0 " % checksum + after


def _pax_record(name: bytes, value: bytes) -> bytes:
    """`"length name=value\\n"`, where the length counts its own digits."""
    rest = b" " + name + b"=" + value + b"\n"
    # The length is computed twice: the digits of the first result may be one more than assumed.
    length = len(rest) + len(str(len(rest)))
    length = len(rest) + len(str(length))
    return b"%d" % length + rest
