"""Hostile tars: a bad member or shard has its reason, and no other sample is lost."""

import io
import random
import re
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import BadSample, reason_code
from shards.storage.ranged_reader import BytesReader
from shards.tar.reader import read_members
from tests.shards.tar.pieces import (
    BLOCK,
    END,
    GOOD,
    codes,
    contents,
    file,
    header,
    index,
    pad,
    pax,
    record,
    special,
)

# Bad members: the sample is an error, its neighbors are not.

BAD_MEMBERS: dict[str, tuple[bytes, str]] = {
    "symbolic link": (special("bad.flac", tarfile.SYMTYPE, "/etc/passwd").tobuf(), "symbolic_link"),
    "symbolic link named like a folder": (header(b"bad/", b"0", b"2"), "symbolic_link"),
    "hard link": (special("bad.flac", tarfile.LNKTYPE, "a.flac").tobuf(), "hard_link"),
    "character device": (special("/dev/bad", tarfile.CHRTYPE).tobuf(), "character_device"),
    "block device": (special("/dev/bad", tarfile.BLKTYPE).tobuf(), "block_device"),
    "named pipe": (special("bad.json", tarfile.FIFOTYPE).tobuf(), "named_pipe"),
    "GNU sparse": (
        header(b"bad.flac", b"4", b"S", magic=b"ustar  ") + pad(b"data"),
        "sparse_member",
    ),
    "pax sparse": (
        pax(record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"bad.flac"))
        + file("GNUSparseFile.0/bad.flac"),
        "sparse_member",
    ),
    "volume label": (header(b"bad", b"0", b"V"), "unknown_member_type"),
    "absolute": (file("/etc/bad.flac"), "absolute_key"),
    "absolute by pax": (pax(record(b"path", b"/etc/bad.flac")) + file("fine.flac"), "absolute_key"),
    "climbing": (file("../bad.flac"), "parent_key"),
    "climbing later": (file("a/../../bad.flac"), "parent_key"),
    "dotted": (file("bad.0001.flac"), "dotted_key"),
    "dotted face": (file("bad.0001.face.npy"), "dotted_key"),
    "dotted folder": (file("v1.0/bad.flac"), "dotted_key"),
    "hidden file": (file("._bad.flac"), "bad_key"),
    "empty component": (file("a//bad.flac"), "bad_key"),
    "control character": (file("bad\x1b[31m.flac"), "bad_key"),
    "newline": (file("bad\n.flac"), "bad_key"),
    "direction override": (file("bad\u202egnp.flac"), "bad_key"),
    "backslash": (file("bad\\x.flac"), "bad_key"),
    "NUL by pax": (pax(record(b"path", b"b\0ad.flac")) + file("fine.flac"), "bad_key"),
    "empty path by pax": (pax(record(b"path", b"")) + file("fine.flac"), "bad_key"),
    "not UTF-8": (header(b"bad\xff\xfe.flac", b"0"), "bad_name"),
    "too long": (
        special("b" * 300 + ".flac", tarfile.REGTYPE).tobuf(tarfile.GNU_FORMAT),
        "key_too_long",
    ),
    "reserved": (file("__bad.flac"), "reserved_key"),
    "reserved folder": (file("__bad__/x.flac"), "reserved_key"),
    "no extension": (file("bad"), "no_extension"),
    "unknown extension": (file("bad.exe"), "unknown_extension"),
    "pickle": (file("bad.pyd"), "unknown_extension"),
    "compressed": (file("bad.json.gz"), "unknown_extension"),
    "same field twice": (file("bad.flac") + file("bad.FLAC"), "duplicate_extension"),
    "too large": (file("bad.flac", bytes(5000)), "member_too_large"),
    "too large together": (
        b"".join(file(f"bad.{e}", bytes(3000)) for e in ("flac", "mp4", "txt")),
        "sample_too_large",
    ),
}


@pytest.mark.parametrize("name", BAD_MEMBERS)
def test_a_bad_member_makes_its_own_sample_an_error_and_no_other(name: str) -> None:
    """A bad sample is an entry with its reason and a printable key.

    The samples before and after it are whole.
    """
    bad, code = BAD_MEMBERS[name]
    shard = index(
        file("first.flac") + bad + file("last.flac") + END,
        max_member_bytes=4096,
        max_sample_bytes=8192,
    )

    assert shard.error is None
    assert [entry.error is None for entry in shard.entries] == [True, False, True]

    entry = shard.entries[1]
    assert entry.error is not None
    assert entry.error.startswith(f"{code}: ")
    assert entry.key.isprintable()
    assert entry.error.isprintable()

    with pytest.raises(BadSample, match=re.escape(entry.error)):
        read_members(BytesReader(b""), entry)


def test_a_bad_member_spoils_the_sample_it_belongs_to() -> None:
    """A link beside good fields of the same key leaves no sample that looks complete."""
    data = file("a.json") + header(b"a.flac", b"0", b"2") + file("a.txt") + GOOD + END
    assert codes(index(data).entries) == {"a": "symbolic_link", "good": None}


def test_a_sparse_member_spoils_the_sample_of_its_real_name() -> None:
    """The name in GNU.sparse.name counts, not the invented name in the header."""
    records = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"a.flac")
    data = file("a.json") + pax(records) + file("GNUSparseFile.1/a.flac") + GOOD + END
    assert codes(index(data).entries) == {"a": "sparse_member", "good": None}


def test_the_map_of_a_sparse_member_is_skipped() -> None:
    """Continuation blocks of an old GNU sparse map are not taken for headers."""
    block = bytearray(header(b"bad.flac", b"4", b"S", magic=b"ustar  "))
    block[482] = 1
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)

    # Why 0xff: no header could look like this, so reading one as a header would be an error.
    more, last = bytearray(b"\xff" * BLOCK), bytearray(b"\xff" * BLOCK)
    last[504] = 0

    shard = index(bytes(block + more + last) + pad(b"data") + GOOD + END)
    assert codes(shard.entries) == {"bad": "sparse_member", "good": None}
    assert shard.error is None


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (["a.flac", "b.flac", "a.json"], {"a": "non_contiguous_key", "b": None}),
        (["a.flac", "b.flac", "a.flac"], {"a": "duplicate_key", "b": None}),
        (
            ["a.flac", "b.flac", "a.json", "b.json", "a.txt"],
            {"a": "non_contiguous_key", "b": "non_contiguous_key"},
        ),
        (["a.flac", "b.flac", "./a.json"], {"a": "non_contiguous_key", "b": None}),
    ],
)
def test_every_part_of_a_key_found_in_two_places_is_an_error(
    members: list[str], expected: dict[str, str]
) -> None:
    """Each part of a divided key is an entry in error, as nothing says which part is the sample."""
    shard = index(b"".join(map(file, members)) + END)
    assert codes(shard.entries) == expected
    assert all(codes((entry,)) == {entry.key: expected[entry.key]} for entry in shard.entries)
    assert sum(len(range(entry.size)) for entry in shard.entries) == len(members) * 2 * BLOCK


# Bad shards: what came before stays.

CLAIM_80_BITS = b"\x80\0" + b"\xff" * 10
BAD_SHARDS: dict[str, tuple[bytes, str]] = {
    "negative size": (header(b"b.flac", b"\xff" * 12) + END, "bad_header"),
    "size in decimal": (header(b"b.flac", b"00000000900") + END, "bad_header"),
    "size with a sign": (header(b"b.flac", b"-0000000001") + END, "bad_header"),
    "size with an underscore": (header(b"b.flac", b"0000000_001") + END, "bad_header"),
    "size beyond the file": (header(b"b.flac", b"77777777777") + END, "cut_short"),
    "size of 80 bits": (header(b"b.flac", CLAIM_80_BITS) + END, "cut_short"),
    "size beyond the file by pax": (
        pax(record(b"size", b"1000000000000")) + file("b.flac") + END,
        "cut_short",
    ),
    "negative size by pax": (pax(record(b"size", b"-1")) + file("b.flac") + END, "bad_header"),
    "endless size by pax": (pax(record(b"size", b"9" * 98)) + file("b.flac") + END, "bad_header"),
    "link with content": (header(b"b.flac", b"4", b"2") + pad(b"data") + END, "bad_header"),
    "directory with content": (header(b"b/", b"4", b"5") + pad(b"data") + END, "bad_header"),
    "pax without a length": (pax(b"path=b.flac\n") + file("b.flac") + END, "bad_header"),
    "pax with a length beyond it": (pax(b"99 path=b.flac\n") + file("b.flac") + END, "bad_header"),
    "pax without a name": (pax(b"8 =b.fl\n") + file("b.flac") + END, "bad_header"),
    "pax twice": (pax(record(b"path", b"b.flac")) * 2 + file("b.flac") + END, "bad_header"),
    "pax and GNU names": (
        pax(record(b"path", b"b.flac"))
        + header(b"L", b"6", b"L")
        + pad(b"c.flac")
        + file("b.flac")
        + END,
        "bad_header",
    ),
    "pax before nothing": (pax(record(b"path", b"b.flac")) + END, "bad_header"),
    "global name": (pax(record(b"path", b"b.flac"), b"g") + file("a.flac") + END, "bad_header"),
    "global size": (pax(record(b"size", b"1"), b"g") + file("a.flac") + END, "bad_header"),
    "global sparse": (
        pax(record(b"GNU.sparse.major", b"1"), b"g") + file("a.flac") + END,
        "bad_header",
    ),
    "pax before global": (
        pax(record(b"path", b"b.flac")) + pax(b"", b"g") + file("a.flac") + END,
        "bad_header",
    ),
    "huge pax": (header(b"P", b"77777777777", b"x") + END, "extended_header_too_large"),
    "huge pax of 80 bits": (header(b"P", CLAIM_80_BITS, b"x") + END, "extended_header_too_large"),
    "huge GNU name": (header(b"L", b"77777777777", b"L") + END, "extended_header_too_large"),
    "huge GNU link name": (header(b"K", b"77777777777", b"K") + END, "extended_header_too_large"),
    "huge global header": (header(b"g", b"77777777777", b"g") + END, "extended_header_too_large"),
    "endless sparse map": (
        header(b"b.flac", b"0", b"S", magic=b"ustar  ", prefix=b"\1" * 150)
        + b"\xff" * BLOCK * 1100
        + END,
        "bad_header",
    ),
    "text": (b"<html>not found</html>".ljust(BLOCK) + END, "bad_checksum"),
    "no end marker": (b"", "cut_short"),
    "half an end marker": (bytes(BLOCK), "cut_short"),
    "a hole": (bytes(BLOCK) + file("b.flac") + END, "cut_short"),
    "second archive": (END + file("b.flac") + END, "trailing_data"),
    "endless padding": (END + bytes(2 << 20), "trailing_data"),
}


@pytest.mark.parametrize("name", BAD_SHARDS)
def test_damage_that_hides_what_follows_is_the_error_of_the_shard(name: str) -> None:
    """Samples before the damage stay, the interrupted one is an error, and the shard says why."""
    bad, code = BAD_SHARDS[name]
    shard = index(GOOD + file("open.flac") + bad)

    assert shard.error is not None
    assert reason_code(shard.error) == code
    assert shard.error.isprintable()

    found = codes(shard.entries)
    assert found["good"] is None
    if "b" in found:  # its header is sound, so the sample before it is known to be whole
        assert (found["b"], found["open"]) == ("cut_short", None)
    else:
        assert found["open"] == (None if code == "trailing_data" else "incomplete_sample")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "cut_short"),
        (b"\x1f\x8b\x08" + bytes(600), "hidden_compression"),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "hidden_compression"),
        (b"\xfd7zXZ\x00" + bytes(600), "hidden_compression"),
        (b"BZh9" + bytes(600), "hidden_compression"),
        (b"PK\x03\x04" + bytes(600), "hidden_compression"),
        (b"<html>" + b" " * 600, "not_a_tar"),
        (bytes(100) + b"x" + bytes(600), "not_a_tar"),
    ],
)
def test_what_is_no_tar_says_what_it_is(data: bytes, code: str) -> None:
    """A compressed file or a web page under the name .tar is told apart from a damaged tar."""
    shard = index(data)
    assert shard.entries == ()
    assert shard.error is not None
    assert reason_code(shard.error) == code


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz"])
def test_tars_compressed_by_python_are_recognized(compression: str) -> None:
    """Real output of three compressors is recognized, even where it is shorter than a block."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as archive:
        archive.addfile(tarfile.TarInfo("a.flac"))
        info = tarfile.TarInfo("b.flac")
        info.size = 2000
        archive.addfile(info, io.BytesIO(random.Random(0).randbytes(2000)))

    assert (index(stream.getvalue()).error or "").startswith("hidden_compression: ")
    assert (index(stream.getvalue()[:300]).error or "").startswith("hidden_compression: ")


def test_a_sound_tar_may_begin_like_a_compressed_file() -> None:
    """A first key that looks like a magic number is a key if its checksum is right."""
    assert list(contents(file("BZh9.flac") + END)) == ["BZh9"]


def test_a_shard_of_too_many_members_is_refused() -> None:
    """The index cannot grow without end; directories count too."""
    data = b"".join(file(f"{n}.flac") for n in range(3)) + END
    assert index(data, max_members=3).error is None
    assert reason_code(index(data, max_members=2).error or "") == "too_many_members"
    assert (
        reason_code(index(header(b"d", b"0", b"5") * 3 + END, max_members=2).error or "")
        == "too_many_members"
    )


def test_memory_does_not_follow_what_a_header_claims() -> None:
    """Claims of terabytes and petabytes are refused within a few windows of memory."""
    claims = [b"77777777777", CLAIM_80_BITS]
    shards = [
        GOOD + header(b"b.flac", size, kind) + END
        for size in claims
        for kind in (b"0", b"x", b"L", b"g", b"S")
    ]

    tracemalloc.start()
    try:
        for data in shards:
            assert index(data).error is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20


@settings(max_examples=200, deadline=None)
@given(
    data=st.lists(st.sampled_from([GOOD, END, *(b for b, _ in BAD_MEMBERS.values())]), max_size=6)
)
def test_hostile_pieces_in_any_order_only_ever_give_an_index(data: list[bytes]) -> None:
    """Archives made of all pieces of this file, in any order, raise nothing."""
    joined = b"".join(data)
    shard = index(joined)
    assert sum(entry.size for entry in shard.entries) <= len(joined)


def test_a_pax_record_that_ends_with_another_byte_is_damage() -> None:
    """A pax record without its newline is refused: readers differ in where the name then ends."""
    data = pax(record(b"path", b"b.txt")[:-1] + b"x") + file("a.txt") + END
    assert (index(data).error or "").startswith("bad_header")
