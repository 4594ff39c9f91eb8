"""Parsing one tar header of 512 bytes, or the records of an extended header, without trusting it.

Python's `tarfile` was left out as the reader. It follows any chain of extended headers by
recursion, reads a long name of whatever size a header claims, and stops at a damaged header as if
the archive ended there. It also takes some 20 microseconds for each member, four times as long as
this code. The tests use `tarfile` as the independent reader.

Every field that decides where the next header lies must be right; otherwise the shard is unreadable
from there on (BadShard). Fields that this project does not use, such as owner, mode and times, are
not checked.
"""

import re
import struct
import zlib
from typing import NamedTuple

from shards.errors import BadShard

BLOCK_BYTES = 512
ZERO_BLOCK = bytes(BLOCK_BYTES)

# The fields name, size, checksum, type, magic and prefix; the fields between them are not used.
_FIELDS = struct.Struct("100s24x12s12x8s1s100x6s82x155s12x")
# GNU's magic has a space in place of the NUL. A GNU header has times where POSIX has the prefix.
_POSIX_MAGIC = b"ustar\0"
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,6}) ")

# The first bytes of compressed files that people may have named .tar.
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
    """What a header says about the member that follows it.

    It is a tuple, which is quick to make, because each member needs one.
    """

    name: bytes
    size: int
    type: bytes


def parse_header(block: bytes, offset: int) -> Header:
    """Parse the header in `block`, which lies at `offset`. Raises BadShard for a damaged header."""
    name, size_field, checksum_field, kind, magic, prefix = _FIELDS.unpack(block)

    total = _byte_sum(block)
    # The checksum field itself counts as eight spaces. Only the sum of unsigned bytes is accepted,
    # which POSIX demands. Some tars of the 1980s hold the signed sum. If that sum were accepted
    # too, every header would have two right sums.
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
    """The records of a pax extended header; of two records with one name, the last counts.

    A record is `"length name=value\\n"`. Raises BadShard when a record is malformed.
    """
    records: dict[bytes, bytes] = {}
    position = 0

    while position < len(payload):
        # The length counts the whole record, from the length's own first digit to the newline.
        match = _PAX_LENGTH.match(payload, position)
        end = position + int(match[1]) if match else 0
        if match is None or end > len(payload) or payload[end - 1 : end] != b"\n":
            raise BadShard("bad_header", f"the extended header at byte {offset} is malformed")

        name, equals, value = payload[match.end() : end - 1].partition(b"=")
        if not name or not equals:
            raise BadShard(
                "bad_header",
                f"the extended header at byte {offset} has a record that is not name=value",
            )

        records[name] = value
        position = end

    return records


def parse_pax_size(value: bytes, offset: int) -> int:
    """The `size` record of a pax header. Raises BadShard unless it is a plain number."""
    if not value.isdigit() or len(value) > 20:
        raise BadShard(
            "bad_header",
            f"the extended header at byte {offset} gives the size {value[:40]!r}, expected a plain "
            "number",
        )

    return int(value)


def _byte_sum(block: bytes) -> int:
    """The sum of the bytes of a header, computed at C speed.

    Adler-32 that starts at 0 keeps the sum of the bytes, modulo 65521, in its low half.
    """
    # The sum of 512 bytes stays below the modulus only if no byte is above 127. Otherwise the sum
    # is taken of 256 bytes at a time, which is 65280 at most.
    if block.isascii():
        return zlib.adler32(block, 0) & 0xFFFF
    return (zlib.adler32(block[:256], 0) & 0xFFFF) + (zlib.adler32(block[256:], 0) & 0xFFFF)


def _octal(field: bytes) -> int | None:
    """The number in a field of octal digits, which ends at a NUL or at the end of the field.

    A blank field is 0; a field that holds anything but octal digits gives None.
    """
    digits = field.partition(b"\0")[0].strip(b" ")
    if not digits:
        return 0
    return int(digits, 8) if not digits.strip(b"01234567") else None


def _base256(field: bytes, offset: int) -> int:
    """The size in GNU's form for 8 GiB and more: the byte 0x80, and then a big-endian number.

    Raises BadShard for any other first byte; 0xff, for example, begins a negative number.
    """
    if field[0] != 0x80:
        raise BadShard(
            "bad_header",
            f"the header at byte {offset} has the size {field!r}, expected octal digits",
        )
    return int.from_bytes(field[1:], "big")


def check_signature(data: bytes) -> None:
    """Raise BadShard when a file that begins with `data` is a compressed file."""
    for signature, name in _SIGNATURES:
        if data.startswith(signature):
            raise BadShard(
                "hidden_compression",
                f"this is a {name} file, expected a tar; decompress it, because shards are read "
                "in place",
            )


def _bad_checksum(block: bytes, offset: int) -> BadShard:
    if offset > 0:
        return BadShard(
            "bad_checksum",
            f"the header at byte {offset} is damaged, so the members after it cannot be found",
        )

    # The signature is checked only after the checksum has failed: the first member of a sound
    # archive may have a name that begins with "BZh".
    check_signature(block)
    if block[257:262] == b"ustar":
        return BadShard("bad_checksum", "the first header is damaged, so no member can be found")
    return BadShard("not_a_tar", f"the file begins with {block[:16]!r}, which is not a tar header")
