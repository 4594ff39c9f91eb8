"""One tar header: 512 bytes, or the records of an extended header, parsed and nothing believed.

Python's `tarfile` was left out as the reader: it follows any chain of extended headers by
recursion, reads a long name of whatever size is claimed, stops at a damaged header as if the
archive ended there, and takes some 20 microseconds a member, four times as long. It serves the
tests as the independent reader.

Every field that decides where the next header lies must be right, or the shard is unreadable from
there on (BadShard). Fields nobody here uses (owner, mode, times) are not looked at.
"""

import re
import struct
import zlib
from typing import NamedTuple

from shards.errors import BadShard

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)

# name, size, checksum, type, magic, prefix; the fields between them are not used.
_FIELDS = struct.Struct("100s24x12s12x8s1s100x6s82x155s12x")
# GNU's own magic has a space instead of the NUL, and times where POSIX has the prefix.
_POSIX_MAGIC = b"ustar\0"
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")

# What other things begin with that are found under the name .tar.
_SIGNATURES = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x5d\x00\x00", "lzma"),
    (b"\x1f\x9d", "compress"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"Rar!", "rar"),
)


class Header(NamedTuple):
    """What a header says about the member that follows it. A tuple, as there is one to make for
    every member.
    """

    name: bytes
    size: int
    type: bytes


def parse_header(block: bytes, offset: int) -> Header:
    """The header in `block`, which lies at `offset`. Raises BadShard for anything that is not an
    intact header.
    """
    name, size_field, checksum_field, kind, magic, prefix = _FIELDS.unpack(block)
    total = _byte_sum(block)
    # Unsigned only, as POSIX has it: the signed sums of some 1980s tars would make two sums right
    # for every header.
    if _octal(checksum_field) != total - sum(checksum_field) + 8 * 0x20:
        raise _bad_checksum(block, offset)
    size = _octal(size_field)
    if size is None:
        size = _base256(size_field, offset)
    name = name.partition(b"\0")[0]
    if prefix[0] and magic == _POSIX_MAGIC:
        name = prefix.partition(b"\0")[0] + b"/" + name
    return Header(name, size, kind)


def parse_pax(payload: bytes, offset: int) -> dict[bytes, bytes]:
    """The records of a pax extended header, the last of a name counting. Raises BadShard when they
    are malformed.
    """
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(payload):
        match = _PAX_LENGTH.match(payload, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(payload) or payload[end - 1 : end] != b"\n":
            raise BadShard("bad_header", f"the extended header at byte {offset} is malformed")
        name, equals, value = payload[match.end() : end - 1].partition(b"=")
        if not name or not equals:
            raise BadShard(
                "bad_header", f"the extended header at byte {offset} has a record without a name"
            )
        records[name] = value
        position = end
    return records


def parse_pax_size(value: bytes, offset: int) -> int:
    """The `size` record of a pax header. Raises BadShard unless it is a plain number."""
    if not value.isdigit() or len(value) > 20:
        raise BadShard(
            "bad_header", f"the extended header at byte {offset} gives the size {value[:40]!r}"
        )
    return int(value)


def _byte_sum(block: bytes) -> int:
    """The sum of the bytes, at C speed: Adler-32 begun at 0 keeps it, modulo 65521, in its low
    half.
    """
    if block.isascii():  # at most 512 times 127, below the modulus
        return zlib.adler32(block, 0) & 0xFFFF
    return (zlib.adler32(block[:256], 0) & 0xFFFF) + (zlib.adler32(block[256:], 0) & 0xFFFF)


def _octal(field: bytes) -> int | None:
    """A number in octal digits, ended by NUL or the field's end; None when it is none. A blank
    field is 0.
    """
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _base256(field: bytes, offset: int) -> int:
    """GNU's form for sizes of 8 GiB and more: 0x80 and a big-endian number; 0xff would make it
    negative.
    """
    if field[0] != 0x80:
        raise BadShard("bad_header", f"the header at byte {offset} has the size field {field!r}")
    return int.from_bytes(field[1:], "big")


def check_signature(data: bytes) -> None:
    """Raise BadShard when `data`, with which a file begins, belongs to a compressed file and not to
    a tar.
    """
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            raise BadShard(
                "hidden_compression",
                f"this is {name}, not tar; decompress it, shards are read in place",
            )


def _bad_checksum(block: bytes, offset: int) -> BadShard:
    if offset > 0:
        return BadShard(
            "bad_checksum", f"the header at byte {offset} is damaged; what follows cannot be found"
        )
    # Asked only after the checksum failed: a sound archive may hold a first member whose name
    # begins with "BZh".
    check_signature(block)
    if block[257:262] == b"ustar":
        return BadShard("bad_checksum", "the first header is damaged; nothing can be found")
    return BadShard("not_a_tar", f"the file begins with {block[:16]!r}, which is no tar header")
