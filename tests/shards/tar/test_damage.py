"""Damaged tars: cuts and changed bytes anywhere are noticed, and nothing is lost in silence."""

import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import reason_code
from shards.storage.ranged_reader import BytesReader
from shards.tar.reader import read_members
from tests.shards.tar.pieces import (
    BLOCK,
    SAMPLES,
    contents,
    index,
    special,
    write,
    write_with_tarfile,
)


def assert_nothing_lost(original: dict[str, dict[str, bytes]], damaged: bytes) -> None:
    """Each original sample is there with its payload sizes, or an error accounts for it."""
    shard = index(damaged)
    if shard.error is None and all(entry.error is None for entry in shard.entries):
        found = {entry.key: {m.extension: m.size for m in entry.members} for entry in shard.entries}
        assert found == {
            key: {e: len(p) for e, p in fields.items()} for key, fields in original.items()
        }

    for entry in shard.entries:
        assert 0 <= entry.offset <= entry.offset + entry.size <= len(damaged)
        if entry.error is None:
            assert entry.key in original
            assert {m.extension for m in entry.members} == original[entry.key].keys()
            assert read_members(BytesReader(damaged), entry).keys() == original[entry.key].keys()


def test_a_cut_at_any_byte_is_noticed() -> None:
    """A shard of this writer cut anywhere says so, and keeps only samples that are whole."""
    data = write(SAMPLES)
    for length in range(len(data)):
        shard = index(data[:length])
        assert reason_code(shard.error or "") in ("cut_short", "bad_header"), length
        assert_nothing_lost(SAMPLES, data[:length])


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_a_cut_of_a_foreign_tar_is_noticed_unless_it_takes_padding_only(tar_format: int) -> None:
    """A cut inside the padding of Python's tarfile loses nothing; any other cut is noticed."""
    samples = {"k" * 120: {"flac": b"1" * 600, "json": b"{}"}, "b": {"flac": b"2", "json": b"{}"}}
    members = [
        (f"{key}.{e}", payload) for key, fields in samples.items() for e, payload in fields.items()
    ]

    if tar_format == tarfile.USTAR_FORMAT:
        samples = {"b": samples["b"]}
        members = members[2:]

    data = write_with_tarfile(*members, tar_format=tar_format)
    content = len(data.rstrip(b"\0")) + -len(data.rstrip(b"\0")) % BLOCK

    assert contents(data) == samples

    for length in range(content + 2 * BLOCK):
        assert index(data[:length]).error is not None, length
        assert_nothing_lost(samples, data[:length])
    assert index(data[: content + 2 * BLOCK]).error is None


def test_a_flipped_bit_in_any_header_is_noticed() -> None:
    """A flipped bit of a header is an error of the shard, or changes nothing.

    Every bit of every header is tried.
    """
    data = write(SAMPLES)
    clean = index(data)
    header_offsets = {member.offset - BLOCK for entry in clean.entries for member in entry.members}

    for offset in sorted(header_offsets):
        for bit in range(8 * BLOCK):
            damaged = bytearray(data)
            damaged[offset + bit // 8] ^= 1 << bit % 8
            shard = index(bytes(damaged))
            if shard.error is None:
                # A leading zero of the checksum may become a space, and nothing is read behind its
                # last digit.
                assert bit // 8 in (148, 154, 155)
                assert shard == clean


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, len(write(SAMPLES)) - 1), value=st.integers(0, 255))
def test_one_changed_byte_never_loses_a_sample_in_silence(position: int, value: int) -> None:
    """After any change of one byte, every sample is there or an error says why not."""
    damaged = bytearray(write(SAMPLES))
    damaged[position] = value
    assert_nothing_lost(SAMPLES, bytes(damaged))


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(
        st.tuples(st.integers(0, 9000), st.binary(max_size=600), st.integers(0, 600)), max_size=5
    ),
    length=st.integers(0, 12_000),
)
def test_arbitrary_damage_only_ever_gives_an_index(
    changes: list[tuple[int, bytes, int]], length: int
) -> None:
    """Replaced, inserted and deleted stretches raise nothing.

    Every entry of the index lies inside the file and can be read.
    """
    data = write_with_tarfile(
        special("d", tarfile.DIRTYPE),
        ("d/a.flac", bytes(900)),
        ("b" * 120 + ".txt", b"t"),
        tar_format=tarfile.PAX_FORMAT,
    )

    for position, inserted, removed in changes:
        data = data[:position] + inserted + data[position + removed :]
    data = data[:length]

    for entry in index(data).entries:
        assert 0 <= entry.offset <= entry.offset + entry.size <= len(data)
        assert entry.key.isprintable()
        if entry.error is None:
            assert {e: len(p) for e, p in read_members(BytesReader(data), entry).items()} == {
                member.extension: member.size for member in entry.members
            }
