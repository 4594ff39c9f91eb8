"""Tar shards: what is written can be read, here and by other libraries, whole and by ranges."""

import io
import random
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import BadSample, BadShard, reason_code
from shards.samples.keys import key_problem, split_name
from shards.storage.files import open_ranged
from shards.storage.ranged_reader import MIN_WINDOW_BYTES, BytesReader, RemoteReader
from shards.tar.reader import TarWriter, index_shard, read_members, read_sample
from tests.shards.tar.pieces import (
    BLOCK,
    END,
    SAMPLES,
    codes,
    contents,
    file,
    header,
    index,
    pad,
    pax,
    record,
    special,
    write,
    write_with_tarfile,
)


def test_written_samples_come_back_whole_and_in_order() -> None:
    """The reader returns what the writer was given.

    The index covers every byte but the end marker.
    """
    data = write(SAMPLES)

    shard = index(data)
    assert shard.error is None
    assert contents(data) == SAMPLES

    assert [entry.key for entry in shard.entries] == list(SAMPLES)
    assert [entry.offset for entry in shard.entries[1:]] == [
        e.offset + e.size for e in shard.entries[:-1]
    ]
    assert shard.entries[-1].offset + shard.entries[-1].size == len(data) - len(END)


def test_python_tarfile_reads_what_is_written() -> None:
    """An independent reader sees the same files, sorted within a sample.

    They have no time and no owner.
    """
    with tarfile.open(fileobj=io.BytesIO(write(SAMPLES))) as archive:
        infos = archive.getmembers()
        files = {info.name: archive.extractfile(info).read() for info in infos}

    assert files == {
        f"{key}.{ext}": payload
        for key, members in SAMPLES.items()
        for ext, payload in members.items()
    }

    assert all(
        (info.mtime, info.uid, info.gid, info.uname, info.mode) == (0, 0, 0, "", 0o644)
        for info in infos
    )
    assert all(not info.pax_headers for info in infos)


def test_the_same_samples_give_the_same_bytes_whatever_the_order_of_their_fields() -> None:
    """Writing is deterministic, so a shard written twice is one object."""
    reordered = {key: dict(reversed(members.items())) for key, members in SAMPLES.items()}
    assert write(reordered) == write(SAMPLES)


def test_add_returns_where_the_sample_lies() -> None:
    """The writer returns the offset and size of the index, which suffice to read the sample."""
    stream = io.BytesIO()
    writer = TarWriter(stream)
    places = {key: writer.add(key, members) for key, members in SAMPLES.items()}
    writer.close()
    writer.close()

    reader = BytesReader(stream.getvalue())

    assert places == {
        entry.key: (entry.offset, entry.size) for entry in index_shard(reader).entries
    }
    for key, (offset, size) in places.items():
        assert read_sample(reader, key, offset, size) == SAMPLES[key]


@pytest.mark.parametrize("num_bytes", [95, 96, 150, 250])
@pytest.mark.parametrize("folder", ["", "f" * 60 + "/", "ff/" * 20])
def test_names_of_any_length_survive(num_bytes: int, folder: str) -> None:
    """Python's tarfile reads names that fit USTAR, need its prefix, or need a pax header."""
    key = (folder + "k" * num_bytes)[: min(num_bytes, 255)]
    data = write({key: {"flac": b"1", "json": b"2"}})
    assert contents(data) == {key: {"flac": b"1", "json": b"2"}}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [f"{key}.flac", f"{key}.json"]


def test_webdataset_reads_what_is_written(tmp_path: Path) -> None:
    """webdataset's own loader returns the same keys and fields."""
    path = tmp_path / "shard.tar"
    path.write_bytes(write(SAMPLES))
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))

    fields = {
        s["__key__"]: {name: data for name, data in s.items() if not name.startswith("__")}
        for s in samples
    }
    assert fields == SAMPLES


def test_the_hugging_face_loader_reads_what_is_written(tmp_path: Path) -> None:
    """The Hugging Face loader finds the same samples if all have the same fields."""
    datasets = pytest.importorskip("datasets")
    samples = {
        f"speaker/{n}": {"json": b'{"speaker":"s%d"}' % n, "txt": b"hello %d" % n} for n in range(3)
    }

    path = tmp_path / "shard.tar"
    path.write_bytes(write(samples))

    loaded = datasets.load_dataset(
        "webdataset", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )

    assert [row["__key__"] for row in loaded] == list(samples)
    assert [row["json"]["speaker"] for row in loaded] == ["s0", "s1", "s2"]
    assert [row["txt"] for row in loaded] == ["hello 0", "hello 1", "hello 2"]


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_format_of_python_tarfile_is_read(tar_format: int) -> None:
    """USTAR, GNU and pax archives are read as tarfile wrote them.

    They have folders, long names and names that are not ASCII.
    """
    members = [
        ("a.flac", b"1"),
        ("a.json", b"{}"),
        ("folder" * 20 + "/long" * 15 + ".wav", b"w" * 1000),
    ]
    if tar_format != tarfile.USTAR_FORMAT:
        members.append(("größe" * 30 + ".txt", b"t"))
    data = write_with_tarfile(special("folder", tarfile.DIRTYPE), *members, tar_format=tar_format)

    assert index(data).error is None
    assert {
        f"{k}.{e}": p for k, fields in contents(data).items() for e, p in fields.items()
    } == dict(members)


def test_a_v7_tar_is_read() -> None:
    """A header without magic is one of a tar from before POSIX.

    A name that ends with a slash is a directory in such a tar.
    """
    data = (
        header(b"d/", b"0", b"\0", magic=b"")
        + header(b"d/a.txt", b"      2 ", b"\0", magic=b"")
        + pad(b"hi")
        + END
    )
    assert contents(data) == {"d/a": {"txt": b"hi"}}
    assert index(data).error is None


def test_names_are_normalized_as_little_as_possible() -> None:
    """A leading ./ is dropped, and extensions are folded to lower case.

    Tars made by hand have both.
    """
    data = file("./s/a.FLAC") + file("./s/a.Face.NPY") + END
    assert list(contents(data)) == ["s/a"]
    assert list(contents(data)["s/a"]) == ["flac", "face.npy"]


def test_harmless_headers_are_passed_over() -> None:
    """Directories and global comments make no entries, even inside a sample.

    git archive writes such a comment.
    """
    comment = pax(record(b"comment", b"0123456"), b"g")

    data = (
        comment
        + header(b"d", b"0", b"5")
        + file("a.flac")
        + header(b"a/", b"0", b"5")
        + file("a.json")
        + END
    )

    assert codes(index(data).entries) == {"a": None}
    assert index(data).error is None

    entry = index(data).entries[0]
    assert read_sample(BytesReader(data), "a", entry.offset, entry.size) == contents(data)["a"]


KEYS = st.from_regex(r"[A-Za-z0-9é]{1,8}(/[A-Za-z0-9é_-]{1,100}){0,2}", fullmatch=True).filter(
    lambda key: key_problem(key) is None
)
FIELDS = st.dictionaries(
    st.sampled_from(["flac", "json", "face.npy", "txt"]), st.binary(max_size=1100), min_size=1
)


@settings(max_examples=100, deadline=None)
@given(samples=st.dictionaries(KEYS, FIELDS, max_size=5))
def test_any_samples_round_trip_and_tarfile_agrees(samples: dict[str, dict[str, bytes]]) -> None:
    """Keys and payloads of every shape come back, here and through Python's tarfile."""
    data = write(samples)
    assert contents(data) == samples
    assert index(data).error is None
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {info.name: archive.extractfile(info).read() for info in archive}
    assert files == {
        f"{key}.{e}": payload for key, fields in samples.items() for e, payload in fields.items()
    }


@settings(max_examples=300, deadline=None)
@given(name=st.text(max_size=40) | st.from_regex(r"[a./_]{1,12}", fullmatch=True))
def test_good_names_split_as_webdataset_splits_them(name: str) -> None:
    """Where a key is accepted, webdataset's own rule gives the same key and field."""
    key, extension = split_name(name)
    if (
        key_problem(key) is None
        and extension
        and "/" not in extension
        and not name.startswith("./")
    ):
        assert webdataset.tariterators.base_plus_ext(name) == (key, name[len(key) + 1 :])


# The writer refuses what the reader would.


@pytest.mark.parametrize(
    ("key", "members", "code"),
    [
        ("", {"flac": b""}, "bad_key"),
        ("a.b", {"flac": b""}, "dotted_key"),
        ("/a", {"flac": b""}, "absolute_key"),
        ("../a", {"flac": b""}, "parent_key"),
        ("a\ud800", {"flac": b""}, "bad_key"),
        ("a" * 256, {"flac": b""}, "key_too_long"),
        ("__a", {"flac": b""}, "reserved_key"),
        ("a", {}, "empty_sample"),
        ("a", {"FLAC": b""}, "unknown_extension"),
        ("a", {"x/../flac": b""}, "unknown_extension"),
        ("there", {"flac": b""}, "duplicate_key"),
    ],
)
def test_the_writer_refuses_what_the_reader_would(
    key: str, members: dict[str, bytes], code: str
) -> None:
    """A bad key or field raises before a byte of it is written; the archive stays usable."""
    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        writer.add("there", {"txt": b"x"})
        written = stream.tell()

        with pytest.raises(BadSample) as caught:
            writer.add(key, members)
        assert caught.value.code == code
        assert stream.tell() == written
    assert contents(stream.getvalue()) == {"there": {"txt": b"x"}}


def test_a_writer_that_fails_leaves_no_end_marker() -> None:
    """A shard whose writer raised reads as cut short, even if someone kept its bytes."""
    stream = io.BytesIO()

    def fail() -> None:
        with TarWriter(stream) as writer:
            writer.add("a", {"txt": b"x"})
            raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        fail()
    assert reason_code(index(stream.getvalue()).error or "") == "cut_short"


def test_a_closed_writer_takes_no_more() -> None:
    """A closed writer refuses a sample, which would lie behind the end marker."""
    writer = TarWriter(io.BytesIO())
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.add("a", {"txt": b"x"})


# Reading by place.


@pytest.mark.parametrize(
    "change",
    [
        lambda key, offset, size: ("other", offset, size),
        lambda key, offset, size: (key, offset + BLOCK, size),
        lambda key, offset, size: (key, offset, size + BLOCK),
        lambda key, offset, size: (key, offset, size - BLOCK),
        lambda key, offset, size: (key, offset, 0),
        lambda key, offset, size: (key, offset, 1 << 60),
        lambda key, offset, size: (key, 1 << 60, size),
    ],
)
def test_a_place_that_is_not_the_sample_is_refused(
    change: Callable[[str, int, int], tuple[str, int, int]],
) -> None:
    """A shard that was rewritten since its table was made gives an error and not another sample."""
    data = write(SAMPLES)
    entry = index(data).entries[2]
    with pytest.raises(BadShard, match="changed_shard"):
        read_sample(BytesReader(data), *change(entry.key, entry.offset, entry.size))


def test_a_file_that_shrinks_after_indexing_is_noticed(tmp_path: Path) -> None:
    """A short read is an error of the shard, not a short payload."""
    path = tmp_path / "shard.tar"
    data = write(SAMPLES)
    path.write_bytes(data)
    with open_ranged(str(path)) as reader:
        entries = index_shard(reader).entries
        path.write_bytes(data[: entries[1].offset + BLOCK + 100])
        assert read_members(reader, entries[0]) == SAMPLES["a"]
        with pytest.raises(BadShard, match="changed_shard"):
            read_members(reader, entries[1])


def test_a_large_sample_is_read_member_by_member(tmp_path: Path) -> None:
    """A sample above the limit of one read comes back the same."""
    samples = {"a": {"mp4": random.Random(0).randbytes(9 << 20), "json": b"{}"}}
    path = tmp_path / "shard.tar"
    path.write_bytes(write(samples))
    with open_ranged(str(path)) as reader:
        assert read_members(reader, index_shard(reader).entries[0]) == samples["a"]


# Remote: requests and bytes.


class CountingStream(io.BytesIO):
    """A remote file that counts what is asked of it."""

    num_requests = 0
    num_bytes = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_requests += 1
        self.num_bytes += len(data)
        return data


def test_indexing_remote_videos_does_not_download_them() -> None:
    """Indexing a shard of 3 MB videos takes one small request a sample."""
    data = write(
        {f"v{n:02d}": {"mp4": bytes(3_000_000), "json": b"{}", "txt": b"hi"} for n in range(12)}
    )

    stream = CountingStream(data)

    shard = index_shard(RemoteReader(stream, len(data)))
    assert len(shard.entries) == 12
    assert shard.error is None
    assert stream.num_requests <= 13
    assert stream.num_bytes <= 13 * MIN_WINDOW_BYTES


def test_indexing_remote_small_samples_takes_few_requests() -> None:
    """Indexing and reading a thousand small samples takes few requests.

    Requests grow to megabytes.
    """
    samples = {
        f"s{n:04d}": {"flac": bytes(20_000), "json": b"{}", "txt": b"hi"} for n in range(1000)
    }

    data = write(samples)
    stream = CountingStream(data)
    reader = RemoteReader(stream, len(data))

    shard = index_shard(reader)
    assert stream.num_requests <= 12
    assert all(read_members(reader, entry) == samples[entry.key] for entry in shard.entries)
    assert stream.num_requests <= 24


def test_times_of_a_gnu_header_are_no_part_of_the_name() -> None:
    """Times in a GNU header are not read as part of the name.

    GNU's incremental archives keep times where POSIX has the prefix; the magic tells them apart.
    """
    times = b"14771324531\x0014771324531\0"
    data = header(b"a.txt", b"%011o" % 2, magic=b"ustar  \0", prefix=times) + pad(b"hi") + END
    assert contents(data) == {"a": {"txt": b"hi"}}
