"""A walk from header to header of a tar: each member, its place, and what is wrong with it.

Payloads are skipped. Two kinds of fault are kept apart. A member that may not be used (a link, a
device, a name that is not UTF-8) is yielded with its problem, because the next header can still be
found. Damage after which the next header cannot be trusted (a wrong checksum, a cut, a size on
which two readers would disagree) raises BadShard: if readers guessed where the archive goes on, two
readers could see two different archives.

The memory used is one window of 4 KiB (64 KiB for an extended header, 1 MiB for the padded end),
whatever sizes the archive claims.
"""

from collections.abc import Iterator
from typing import NamedTuple

from shards.errors import BadShard
from shards.samples.keys import printable
from shards.storage.ranged_reader import RangedReader
from shards.tar.header import (
    BLOCK_BYTES,
    ZERO_BLOCK,
    Header,
    check_signature,
    parse_header,
    parse_pax,
    parse_pax_size,
)

MAX_EXTENDED_BYTES = 64 << 10
# Writers pad the end of an archive to a multiple of their record, which is 10 KiB by default.
MAX_END_PADDING_BYTES = 1 << 20

# The number of bytes read for one header. The small members of a sample, and the first header of
# the next sample, are often among these bytes and need no read of their own.
_WINDOW_BYTES = 4 << 10
_REGULAR_TYPES = frozenset({b"0", b"\0", b"7"})
_DIRECTORY_TYPE = b"5"
_PAX_TYPES = frozenset({b"x", b"X"})
_GLOBAL_PAX_TYPE = b"g"
_LONG_NAME_TYPE = b"L"
_LONG_LINK_TYPE = b"K"
_EXTENDED_TYPES = _PAX_TYPES | {_LONG_NAME_TYPE, _LONG_LINK_TYPE}
_SPARSE_TYPE = b"S"
_EMPTY_TYPES = {
    b"1": "hard_link",
    b"2": "symbolic_link",
    b"3": "character_device",
    b"4": "block_device",
    b"6": "named_pipe",
}
# A continuation block of an old GNU sparse map holds 21 entries, so about 21,500 are allowed.
_MAX_SPARSE_BLOCKS = 1024


class FoundMember(NamedTuple):
    """A member and its place in the tar.

    The member takes the bytes `[start, end)`, including its headers and padding. Its payload is the
    `size` bytes at `offset`. `problem` is the (code, detail) of what is wrong with it, or None.
    """

    name: str
    start: int
    offset: int
    size: int
    end: int
    is_directory: bool
    problem: tuple[str, str] | None


def walk_members(reader: RangedReader, max_members: int) -> Iterator[FoundMember]:
    """Yield every member up to the end-of-archive marker, in order.

    Directories are harmless, and are not yielded. Raises BadShard where the archive breaks off, and
    BadShard with the code `trailing_data` when the archive is whole but bytes follow its end. The
    end marker (two zero blocks) is required: without it, an archive that is cut between two members
    would look intact.
    """
    window = _Window(reader)
    offset = 0

    # One round more than there may be members, for the end-of-archive marker.
    for _ in range(max_members + 1):
        block = window.header_block(offset)
        if block == ZERO_BLOCK:
            _check_end(window, offset)
            return

        header = parse_header(block, offset)
        if header.type == _GLOBAL_PAX_TYPE:
            offset = _skip_global_header(window, header, offset)
            continue

        member = _read_member(window, header, offset)
        offset = member.end
        if not member.is_directory:
            yield member
        if member.problem and member.problem[0] == "cut_short":
            raise BadShard(*member.problem)

    raise BadShard(
        "too_many_members",
        f"the shard has more than {max_members} members; split it into smaller shards",
    )


class _Window:
    """The part of the file around the current header."""

    def __init__(self, reader: RangedReader) -> None:
        self.reader = reader
        self._data = b""
        self._start = 0

    def read(self, offset: int, length: int) -> bytes:
        begin = offset - self._start
        end = begin + length
        if begin < 0 or end > len(self._data):
            self._data = self.reader.read_at(offset, max(length, _WINDOW_BYTES))
            self._start = offset
            begin, end = 0, length

        return self._data[begin:end]

    def header_block(self, offset: int) -> bytes:
        begin = offset - self._start
        block = self._data[begin : begin + BLOCK_BYTES] if begin >= 0 else b""
        if len(block) < BLOCK_BYTES:
            block = self.read(offset, BLOCK_BYTES)

        if len(block) < BLOCK_BYTES:
            size = self.reader.size
            # A small compressed file is shorter than one block, and should be called what it is.
            if offset == 0:
                check_signature(block)
            raise BadShard(
                "cut_short", f"the file ends at byte {size} without the end-of-archive marker"
            )

        return block


def _read_member(window: _Window, header: Header, start: int) -> FoundMember:
    """The member whose first header, possibly an extended header, is `header` at `start`."""
    offset, size, raw_name, is_sparse = start, header.size, header.name, False
    if header.type in _EXTENDED_TYPES:
        records, header, offset = _read_extended_headers(window, header, start)
        size = parse_pax_size(records[b"size"], start) if b"size" in records else header.size
        is_sparse = any(name.startswith(b"GNU.sparse.") for name in records)
        # A sparse member has its real name in the record; the header holds an invented name.
        raw_name = records.get(b"GNU.sparse.name", records.get(b"path", header.name))

    problem = None
    try:
        name = raw_name.decode()
    except UnicodeDecodeError:
        name = raw_name.decode("utf-8", "backslashreplace")
        problem = "bad_name", f"the name '{printable(name)}' is not UTF-8"

    payload = offset + BLOCK_BYTES
    # Before POSIX, a directory was an empty file whose name ends with a slash.
    is_directory = size == 0 and name.endswith("/")
    if is_sparse or header.type not in _REGULAR_TYPES:
        problem = _type_problem(header, name, size, offset) or problem
        is_directory = header.type == _DIRECTORY_TYPE
        if header.type == _SPARSE_TYPE:
            payload = _skip_sparse_map(window, offset)

    end = payload + _padded(size)
    if end > window.reader.size:
        end = window.reader.size
        # Bytes that are missing from the padding alone do not harm this member.
        if size > end - payload:
            left = max(end - payload, 0)
            problem = (
                "cut_short",
                f"member '{printable(name)}' claims {size} bytes, but the file has {left} left",
            )

    return FoundMember(name, start, payload, size, end, is_directory, problem)


def _type_problem(header: Header, name: str, size: int, offset: int) -> tuple[str, str] | None:
    """What is wrong with a member that is not a plain file; None for a directory."""
    shown = printable(name)

    if header.type == _SPARSE_TYPE or header.type in _REGULAR_TYPES:
        return (
            "sparse_member",
            f"member '{shown}' is stored with holes; write the tar without --sparse",
        )

    if header.type != _DIRECTORY_TYPE and header.type not in _EMPTY_TYPES:
        return (
            "unknown_member_type",
            f"member '{shown}' has the type {header.type!r}, expected a file",
        )

    if size:
        # Some readers skip the claimed bytes and some do not, so the next header has no sure place.
        raise BadShard(
            "bad_header",
            f"member '{shown}' at byte {offset} has a type without content, but claims {size} "
            "bytes",
        )

    code = _EMPTY_TYPES.get(header.type)
    return (
        (code, f"member '{shown}' is a {code.replace('_', ' ')}, expected a file") if code else None
    )


def _read_extended_headers(
    window: _Window, header: Header, start: int
) -> tuple[dict[bytes, bytes], Header, int]:
    """Read the extended headers at `start`.

    Returns the records of all of them, the member's own header, and the offset of this header.
    """
    records: dict[bytes, bytes] = {}
    seen: set[bytes] = set()
    offset = start

    while header.type in _EXTENDED_TYPES:
        payload = _extended_payload(window, header, offset)
        if header.type in seen:
            raise BadShard(
                "bad_header",
                f"two extended headers of the same kind before byte {offset}, expected one",
            )
        seen.add(header.type)

        if header.type in _PAX_TYPES:
            added = parse_pax(payload, offset)
        else:
            added = {b"path": payload.partition(b"\0")[0]} if header.type == _LONG_NAME_TYPE else {}
        if records.keys() & added.keys():
            # Readers disagree on which of the two headers counts.
            raise BadShard(
                "bad_header",
                f"two extended headers before byte {offset} set the same field, expected one",
            )
        records |= added

        offset += BLOCK_BYTES + _padded(header.size)
        block = window.header_block(offset)
        if block == ZERO_BLOCK:
            raise BadShard(
                "bad_header", f"the extended header at byte {start} belongs to no member"
            )
        header = parse_header(block, offset)

    if header.type == _GLOBAL_PAX_TYPE:
        raise BadShard("bad_header", f"got a global header at byte {offset}, expected a member")
    return records, header, offset


def _extended_payload(window: _Window, header: Header, offset: int) -> bytes:
    if header.size > MAX_EXTENDED_BYTES:
        detail = (
            f"the extended header of {header.size} bytes at byte {offset} is too large, at most "
            f"{MAX_EXTENDED_BYTES} are read"
        )
        raise BadShard("extended_header_too_large", detail)

    payload = window.read(offset + BLOCK_BYTES, header.size)
    if len(payload) < header.size:
        raise BadShard("cut_short", f"the file ends inside the extended header at byte {offset}")
    return payload


def _padded(size: int) -> int:
    return size + -size % BLOCK_BYTES


def _skip_global_header(window: _Window, header: Header, offset: int) -> int:
    """The offset after a global header, which may hold comments and times for all members.

    Raises BadShard when the header sets one name or one size for all members, which makes no sense.
    """
    records = parse_pax(_extended_payload(window, header, offset), offset)
    if any(name in (b"path", b"size") or name.startswith(b"GNU.sparse.") for name in records):
        raise BadShard(
            "bad_header", f"the global header at byte {offset} sets a name or size for every member"
        )
    return offset + BLOCK_BYTES + _padded(header.size)


def _skip_sparse_map(window: _Window, offset: int) -> int:
    """The offset of the payload of an old GNU sparse member, after the blocks of its map.

    Byte 482 of the header, and byte 504 of each continuation block, says whether another
    continuation block follows.
    """
    is_extended = window.header_block(offset)[482]
    for _ in range(_MAX_SPARSE_BLOCKS):
        offset += BLOCK_BYTES
        if not is_extended:
            return offset
        is_extended = window.header_block(offset)[504]

    raise BadShard(
        "bad_header",
        f"a sparse member has a map of more than {_MAX_SPARSE_BLOCKS} blocks, up to byte {offset}",
    )


def _check_end(window: _Window, offset: int) -> None:
    """Raise BadShard unless the zero block at `offset` and all that follows is a proper end.

    A proper end is two zero blocks, and after them at most MAX_END_PADDING_BYTES of zeros.
    """
    if window.header_block(offset + BLOCK_BYTES) != ZERO_BLOCK:
        raise BadShard(
            "cut_short",
            f"got one zero block at byte {offset}, expected two at the end of the archive; the "
            "file may have a hole",
        )

    tail = offset + 2 * BLOCK_BYTES
    tail_bytes = window.reader.size - tail
    # The size is compared first, so that a long tail is never read into memory.
    if tail_bytes > MAX_END_PADDING_BYTES or window.read(tail, tail_bytes).strip(b"\0"):
        raise BadShard(
            "trailing_data",
            f"{tail_bytes} bytes follow the end of the archive; the file may be two tars in one",
        )
