"""One labeling job over every kind of damage: each input becomes a row or a named shard."""

import gzip
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import soundfile

from cluster.exit_status import ExitStatus
from cluster.jobs.label import LabelConfig, run_label
from shards.errors import reason_code
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import encode_sample
from shards.tables.predictions import read_info
from shards.tar.reader import TarLimits
from tests.shards.media.pieces import encode_video, gray, tone
from tests.shards.tar.pieces import BLOCK, END, file, header, index, pad, pax, record, special
from tests.worlds.small import SmallWorld, make_sample

GOOD = None
MODALITIES = ("audio", "vision", "text")


@dataclass(frozen=True, slots=True)
class SaltedShard:
    """A shard with the reason of each row (None for a good one), and its own."""

    data: bytes
    rows: list[str | None]
    error: str | None = None


class GoodSamples:
    """An endless supply of good samples, as members of a tar."""

    def __init__(self) -> None:
        self._number = 0

    def fields(self) -> dict[str, bytes]:
        self._number += 1
        return encode_sample(make_sample(self._number, seconds=0.1))

    def tar(self, key: str = "") -> bytes:
        fields = self.fields()
        return members(key or f"good-{self._number}", fields)


def members(key: str, fields: dict[str, bytes]) -> bytes:
    return b"".join(file(f"{key}.{extension}", payload) for extension, payload in fields.items())


def bad_tar_members(good: GoodSamples) -> Iterator[tuple[bytes, list[str | None]]]:
    """Yield members that a tar may hold and a sample may not, with the rows that they give."""
    yield special("link.flac", tarfile.SYMTYPE, "/etc/passwd").tobuf(), ["symbolic_link"]
    yield special("hard.flac", tarfile.LNKTYPE, "good-1.flac").tobuf(), ["hard_link"]
    yield special("device.flac", tarfile.CHRTYPE).tobuf(), ["character_device"]
    yield special("disk.flac", tarfile.BLKTYPE).tobuf(), ["block_device"]
    yield special("pipe.flac", tarfile.FIFOTYPE).tobuf(), ["named_pipe"]

    yield header(b"holes.flac", b"4", b"S", magic=b"ustar  ") + pad(b"data"), ["sparse_member"]
    sparse = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.name", b"pax-holes.flac")
    yield pax(sparse) + file("GNUSparseFile.0/pax-holes.flac"), ["sparse_member"]

    yield (
        good.tar("twice") + good.tar("between") + good.tar("twice"),
        ["duplicate_key", GOOD, "duplicate_key"],
    )

    parted = list(good.fields().items())
    halves = members("parted", dict(parted[:2])), members("parted", dict(parted[2:]))
    yield halves[0] + good.tar() + halves[1], ["non_contiguous_key", GOOD, "non_contiguous_key"]

    yield good.tar("/etc/absolute"), ["absolute_key"]
    yield good.tar("../climbing"), ["parent_key"]
    yield good.tar("dotted.0001"), ["dotted_key"]
    yield good.tar("__reserved"), ["reserved_key"]
    yield good.tar("bell\a"), ["bad_key"]

    yield file("program.exe"), ["unknown_extension"]
    yield file("nothing"), ["no_extension"]
    yield members("with-pickle", good.fields() | {"pyd": b"cos\nsystem\n."}), ["unknown_extension"]


def bad_contents(good: GoodSamples) -> Iterator[tuple[bytes, list[str | None]]]:
    """Yield samples whose fields cannot be used, with the rows that they give."""
    one_second = tone(300.0, rate_hz=SAMPLE_RATE_HZ)
    with_nan = np.where(np.arange(len(one_second)) == 500, np.nan, one_second)

    objects = io.BytesIO()
    np.save(objects, np.array([[{}]], dtype=object), allow_pickle=True)
    infinite = io.BytesIO()
    np.save(infinite, np.full((2, 8), np.inf, np.float32))

    changes: list[tuple[str, bytes, str]] = [
        ("flac", b"fLaC" + bytes(60), "corrupt_audio"),
        ("flac", good.fields()["flac"][:-40], "corrupt_audio"),
        ("flac", b"", "empty_audio"),
        ("flac", b"#EXTM3U\nfile:///etc/passwd\n", "unknown_audio_format"),
        ("flac", wav(one_second * 0), "silent_audio"),
        ("flac", wav(with_nan), "non_finite_audio"),
        ("flac", wav(one_second)[:-100], "truncated_audio"),
        ("flac", wav(one_second[:100]), "audio_too_short"),
        ("wav", wav(one_second), "ambiguous_audio"),
        ("face.npy", objects.getvalue(), "pickled_features"),
        ("face.npy", infinite.getvalue(), "non_finite_features"),
        ("face.npy", b"\x93NUMPY", "bad_features"),
        ("json", b"[" * 100_000 + b"]" * 100_000, "bad_json"),
        ("json", b'{"speaker": ', "bad_json"),
        ("txt", b"\xff\xfe\xfd", "bad_transcript"),
    ]

    for number, (extension, payload, code) in enumerate(changes):
        yield members(f"bad-{number}", good.fields() | {extension: payload}), [code]
        yield good.tar(), [GOOD]

    yield members("words-to-come", {"json": b"{}"}), ["no_media"]
    yield (
        members("silent-film", {"mp4": encode_video([gray(90)] * 4), "txt": b"the rain"}),
        ["no_audio_track"],
    )
    yield members("no-film", {"mp4": b"<html>", "txt": b"the rain"}), ["unknown_audio_format"]


def wav(samples: np.ndarray) -> bytes:  # type: ignore[type-arg]
    stream = io.BytesIO()
    soundfile.write(stream, samples, SAMPLE_RATE_HZ, format="WAV", subtype="FLOAT")
    return stream.getvalue()


def mixed(pieces: Iterator[tuple[bytes, list[str | None]]], good: GoodSamples) -> SaltedShard:
    """Make a sound tar of the pieces, with a good sample before each and after the last."""
    data, rows = b"", []
    for piece, expected in pieces:
        data += good.tar() + piece
        rows += [GOOD, *expected]
    return SaltedShard(data + good.tar() + END, [*rows, GOOD])


def damaged(good: GoodSamples) -> dict[str, SaltedShard]:
    """Make a shard of three good samples, damaged in every way that hides what follows."""
    whole = good.tar("a") + good.tar("b") + good.tar("c") + END

    last = index(whole).entries[2]
    payload = next(member.offset for member in last.members if member.extension == "flac")
    flipped = bytearray(whole)
    flipped[last.offset + 3] ^= 1

    return {
        "whole": SaltedShard(whole, [GOOD] * 3),
        "cut-in-header": SaltedShard(
            whole[: last.offset + 100], [GOOD, "incomplete_sample"], "cut_short"
        ),
        "cut-in-payload": SaltedShard(
            whole[: payload + 100], [GOOD, GOOD, "cut_short"], "cut_short"
        ),
        "no-end-marker": SaltedShard(
            whole[: -len(END)], [GOOD, GOOD, "incomplete_sample"], "cut_short"
        ),
        "flipped-bit": SaltedShard(bytes(flipped), [GOOD, "incomplete_sample"], "bad_checksum"),
        "second-archive": SaltedShard(whole + whole, [GOOD] * 3, "trailing_data"),
        "compressed": SaltedShard(gzip.compress(whole), [], "hidden_compression"),
        "web-page": SaltedShard(b"<html>not found</html>" * 40, [], "not_a_tar"),
        "empty": SaltedShard(b"", [], "cut_short"),
    }


def write_too_large(path: Path, good: GoodSamples) -> list[str | None]:
    """Write a shard with a member over the limit: a hole in the file, which takes no space."""
    size = TarLimits().max_member_bytes + BLOCK
    with path.open("wb") as stream:
        stream.write(good.tar() + header(b"large.flac", b"%011o" % size))
        stream.seek(size, io.SEEK_CUR)
        stream.write(good.tar() + END)
    return [GOOD, "member_too_large", GOOD]


def test_rows_and_unreadable_shards_account_for_every_input(
    small_world: SmallWorld, ray_address: str, tmp_path: Path
) -> None:
    """Each bad sample is a row with its reason, and each bad shard is named with its own.

    Good samples lose nothing.
    """
    good = GoodSamples()
    shards = {
        "tar-members": mixed(bad_tar_members(good), good),
        "contents": mixed(bad_contents(good), good),
    }
    shards |= damaged(good)
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    corpus.mkdir()
    for name, shard in shards.items():
        (corpus / f"{name}.tar").write_bytes(shard.data)
    expected = {f"{name}.tar": shard.rows for name, shard in shards.items()}
    expected["too-large.tar"] = write_too_large(corpus / "too-large.tar", good)
    options = {
        "shards": f"{corpus}/*.tar",
        "out": str(out),
        "panel": str(small_world.panel),
        "address": ray_address,
    }

    assert run_label(LabelConfig(**options, num_labelers=1)) == ExitStatus.DAMAGED == 3

    found, errors = {}, {}
    for path in out.glob("*.parquet"):
        info = read_info(str(path))
        rows = pq.read_table(path).to_pylist()
        found[info.shard] = [row["error"] and reason_code(row["error"]) for row in rows]
        errors[info.shard] = info.shard_error and reason_code(info.shard_error)
        assert [row["offset"] for row in rows] == sorted(row["offset"] for row in rows)
        for row in rows:
            has = [row[modality] is not None for modality in MODALITIES]
            only_words = row["key"] == "silent-film"
            assert has == ([False, False, True] if only_words else [row["error"] is None] * 3), row[
                "key"
            ]
    assert found == expected
    assert errors == {"too-large.tar": None} | {
        f"{name}.tar": shard.error for name, shard in shards.items()
    }
    assert_summary(json.loads((out / "label-summary.json").read_text()), expected, errors)


def assert_summary(
    summary: dict[str, object], rows: dict[str, list[str | None]], errors: dict[str, str | None]
) -> None:
    """Assert that the summary counts what the tables hold."""
    unreadable = summary["unreadable"]
    assert isinstance(unreadable, list)

    assert {shard["shard"]: reason_code(shard["error"]) for shard in unreadable} == {
        name: code for name, code in errors.items() if code is not None
    }

    rejected = Counter(code for codes in rows.values() for code in codes if code is not None)
    assert summary["rejected"] == rejected
    assert summary["num_rejected"] == rejected.total()
    assert summary["num_utterances"] == sum(map(len, rows.values()))

    assert (summary["num_shards"], summary["num_labeled"], summary["failed"]) == (
        len(rows),
        len(rows),
        [],
    )
