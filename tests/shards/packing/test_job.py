"""Packed shards: the kept samples and no others, the same every time.

The libraries that people train with can read them.
"""

import json
import os
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.errors import BadShard
from shards.packing import job as packing
from shards.packing.job import PackConfig, PackSummary, pack
from shards.samples.sample import Sample, parse_sample
from shards.selection.job import select
from shards.selection.rule import SelectConfig
from shards.storage import open_files
from shards.storage.files import open_ranged
from shards.storage.ranged_reader import LocalReader
from shards.tar.reader import TarWriter, index_shard, read_members
from tests.shards.selection.inputs import sample, write_corpus

SPEAKERS = tuple(f"speaker-{number:02d}" for number in range(10))
NUM_UTTERANCES = 12


def utterances(first: int = 0) -> list[Sample]:
    """Utterances of every speaker from number `first` on, the speakers taking turns.

    Those of sadness are not kept.
    """
    emotions = ("neutral", "anger", "sadness", "happiness")
    return [
        sample(f"{speaker}-{number}", speaker, emotions[number % 4], transcript=f"number {number}")
        for number in range(first, first + NUM_UTTERANCES // 2)
        for speaker in SPEAKERS
    ]


def make_selection(
    folder: Path, samples: dict[str, list[Sample]] | None = None, **options: Any
) -> None:
    write_corpus(
        folder,
        {"a": utterances(), "b": utterances(NUM_UTTERANCES // 2)} if samples is None else samples,
    )  # type: ignore[arg-type]

    settings = {"teachers": ("text", "vision"), "min_per_speaker": 1} | options
    select(
        SelectConfig(
            predictions=str(folder / "predictions"), out=str(folder / "selection"), **settings
        )
    )


def run(folder: Path, out: str = "packed", **options: Any) -> PackSummary:
    settings = {
        "shards": str(folder / "shards" / "*.tar"),
        "selection": str(folder / "selection"),
    } | options
    return pack(PackConfig(out=str(folder / out), **settings))


def contents(path: Path) -> dict[str, dict[str, bytes]]:
    """Every sample of a shard, in order."""
    with open_ranged(str(path)) as reader:
        index = index_shard(reader)
        assert index.error is None
        return {entry.key: read_members(reader, entry) for entry in index.entries}


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `shard_size_mb` count kB, so that a small corpus fills several shards."""
    monkeypatch.setattr(packing, "MIB", 1000)


def test_exactly_the_kept_samples_are_packed(tmp_path: Path) -> None:
    """Each kept utterance is in one shard, with its media untouched.

    Its json has gained label, probabilities and split.
    """
    make_selection(tmp_path)
    summary = run(tmp_path)

    originals = {one.key: one for one in (*utterances(), *utterances(NUM_UTTERANCES // 2))}
    kept = {
        row["key"]: row
        for row in pq.read_table(tmp_path / "selection" / "selection.parquet").to_pylist()
    }

    packed: dict[str, Mapping[str, bytes]] = {}
    for name in summary.shards:
        packed |= contents(tmp_path / "packed" / name)

    assert packed.keys() == kept.keys()
    assert len(packed) == summary.num_utterances == 90

    for key, members in packed.items():
        found, original = parse_sample(key, members), originals[key]
        assert (found.audio, found.transcript, found.speaker) == (
            original.audio,
            original.transcript,
            original.speaker,
        )

        assert found.metadata == {
            "speaker": original.speaker,
            "emotion": original.emotion,
            "clip": f"{key}.wav",
            "duration_seconds": 2.0,  # the labeling job's, as the sample does not say
            "label": kept[key]["label"],
            "label_probs": kept[key]["probs"],
            "split": kept[key]["split"],
        }
        assert EMOTIONS[int(np.argmax(found.metadata["label_probs"]))] == found.metadata["label"]


def test_shards_hold_one_split_and_whole_speakers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A speaker's utterances, from any labeled shard, lie together in one shard of their split."""
    small_shards(monkeypatch)
    make_selection(tmp_path)
    summary = run(tmp_path, shard_size_mb=80)

    homes: dict[str, str] = {}
    for name in summary.shards:
        metadata = [
            json.loads(members["json"]) for members in contents(tmp_path / "packed" / name).values()
        ]
        assert {one["split"] for one in metadata} == {name.partition("-")[0]}
        for speaker, group in groupby(metadata, key=lambda one: one["speaker"]):
            assert speaker not in homes
            homes[speaker] = name
            assert len(list(group)) == 9

    assert sorted(homes) == list(SPEAKERS)
    assert summary.num_shards > 3

    sizes = [(tmp_path / "packed" / name).stat().st_size for name in summary.shards]
    assert max(sizes) < 80_000 + 4 * 1024


def test_summary(tmp_path: Path) -> None:
    """The summary, also the one on disk, counts what lies in the folder."""
    make_selection(tmp_path)
    summary = run(tmp_path)

    assert (summary.num_speakers, summary.num_shards, summary.num_written) == (10, 3, 3)
    assert {name: counts["speakers"] for name, counts in summary.splits.items()} == {
        "train": 7,
        "validation": 1,
        "test": 2,
    }
    assert summary.splits["train"]["utterances"] == 63

    for split, counts in summary.splits.items():
        files = list((tmp_path / "packed").glob(f"{split}-*.tar"))
        assert (counts["shards"], counts["bytes"]) == (
            len(files),
            sum(path.stat().st_size for path in files),
        )

    on_disk = json.loads((tmp_path / "packed" / "pack-summary.json").read_text())
    assert on_disk["shards"] == list(summary.shards)
    assert on_disk["splits"] == summary.splits
    assert "num_written" not in on_disk
    assert (tmp_path / "packed" / "pack.yaml").exists()


def test_the_same_bytes_on_one_worker_or_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes of shards do not depend on how many were written at once."""
    small_shards(monkeypatch)
    make_selection(tmp_path)
    run(tmp_path, "one", shard_size_mb=30, num_workers=1)
    run(tmp_path, "many", shard_size_mb=30, num_workers=5)
    assert tars(tmp_path / "one") == tars(tmp_path / "many")
    assert len(tars(tmp_path / "one")) == 10


def test_a_finished_pack_opens_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second run reads nothing from a labeled shard and writes nothing."""
    make_selection(tmp_path)
    run(tmp_path)

    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "packed").glob("*.tar")}
    monkeypatch.setattr(open_files, "open_ranged", lambda url: pytest.fail(f"{url} was opened"))

    summary = run(tmp_path)

    assert summary.num_written == 0
    assert summary.num_utterances == 90
    assert {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "packed").glob("*.tar")
    } == before


def test_an_interrupted_pack_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failure, a second run writes only what is missing.

    The result is that of an undisturbed run.
    """
    small_shards(monkeypatch)
    make_selection(tmp_path)
    run(tmp_path, "undisturbed", shard_size_mb=30)
    real, calls = LocalReader.read_at, iter(range(60))

    def failing(self: LocalReader, offset: int, length: int) -> bytes:
        if next(calls, None) is None:
            raise OSError("the disk is gone")
        return real(self, offset, length)

    with monkeypatch.context() as broken:
        broken.setattr(LocalReader, "read_at", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            run(tmp_path, shard_size_mb=30, num_workers=1)
    finished = tars(tmp_path / "packed")
    assert 0 < len(finished) < 10

    assert not (tmp_path / "packed" / "pack-summary.json").exists()
    (tmp_path / "packed" / f".{next(iter(finished))}.tmp-0").write_bytes(b"left by a killed writer")
    assert run(tmp_path, shard_size_mb=30).num_written == 10 - len(finished)

    assert tars(tmp_path / "packed") == tars(tmp_path / "undisturbed")
    assert not list((tmp_path / "packed").glob(".*"))


def test_another_selection_replaces_the_shards_of_the_last(tmp_path: Path) -> None:
    """A folder never holds shards of two selections; files of other names are left alone."""
    make_selection(tmp_path)
    first = run(tmp_path)
    (tmp_path / "packed" / "train-notes.tar").write_bytes(b"mine")
    make_selection(tmp_path, classes=("anger",))
    second = run(tmp_path)
    assert not set(first.shards) & set(second.shards)
    assert set(tars(tmp_path / "packed")) == {*second.shards, "train-notes.tar"}


def test_samples_of_another_kind_go_to_a_file_beside(tmp_path: Path) -> None:
    """All samples of a file have the same fields, so other kinds get a file of their own.

    For example mp3s are apart from flacs, and samples with faces from those without.
    """
    features = np.ones((2, 3), dtype=np.float32)
    samples = [
        sample("one", "s", transcript=None),
        sample("two", "s", face_features=features),
        sample("three", "s", audio_format="mp3"),
        sample("four", "s", transcript="hello"),
        Sample(key="five", transcript="words only", metadata={"speaker": "s"}),
    ]

    make_selection(tmp_path, {"a": samples})
    summary = run(tmp_path)

    found = {name: contents(tmp_path / "packed" / name) for name in summary.shards}
    kinds = {name.partition("-000000-")[2][12:]: list(samples) for name, samples in found.items()}
    assert kinds == {
        ".tar": ["one", "four"],
        "-face-flac.tar": ["two"],
        "-mp3.tar": ["three"],
        "-text.tar": ["five"],
    }

    for members in found.values():
        assert len({frozenset(one) for one in members.values()}) == 1

    plain = next(members for members in found.values() if "one" in members)
    assert plain["one"]["txt"] == b""
    assert parse_sample("one", plain["one"]).transcript is None

    assert summary.num_utterances == 5
    assert summary.num_shards == 4
    assert run(tmp_path).num_written == 0


def test_a_planned_shard_is_finished_only_with_all_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that marks a planned shard as done appears after the others.

    This holds also when writing one of the others fails.
    """
    make_selection(tmp_path, {"a": [sample("one", "s"), sample("two", "s", audio_format="mp3")]})
    published: list[str] = []
    real = os.replace

    def fail_once(source: str, target: str) -> None:
        published.append(Path(target).name)
        if len(published) == 1:
            raise OSError("no space left on device")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    with pytest.raises(OSError, match="no space left"):
        run(tmp_path)
    assert published[0].endswith("-mp3.tar")
    assert not list((tmp_path / "packed").iterdir())

    assert run(tmp_path).num_written == 1
    assert [name.endswith("-mp3.tar") for name in published[1:3]] == [True, False]


def test_a_replacement_that_fails_leaves_no_summary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pack that replaces another removes its summary before it changes anything.

    A folder with a summary is therefore a whole pack.
    """
    make_selection(tmp_path)
    run(tmp_path)
    make_selection(tmp_path, classes=("anger",))
    monkeypatch.setattr(packing, "write_packed_shard", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path)
    assert not (tmp_path / "packed" / "pack-summary.json").exists()


def test_keys_shared_by_two_shards_are_both_packed(tmp_path: Path) -> None:
    """The same key in two labeled shards is two utterances."""
    make_selection(
        tmp_path, {"a": [sample("same", "s", size=10)], "b": [sample("same", "s", size=20)]}
    )
    [name] = run(tmp_path).shards
    packed = contents(tmp_path / "packed" / name)
    assert sorted(len(members["flac"]) for members in packed.values()) == [10, 20]
    assert all(key.startswith("same-") for key in packed)


def test_packed_shards_open_in_webdataset(tmp_path: Path) -> None:
    """webdataset reads every sample, and its json is the packed one."""
    make_selection(tmp_path)
    run(tmp_path)
    urls = [str(path) for path in sorted((tmp_path / "packed").glob("train-*.tar"))]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert len(found) == 63
    assert all({"__key__", "flac", "json", "txt"} <= set(one) for one in found)
    assert all(
        one["json"]["split"] == "train" and len(one["json"]["label_probs"]) == 7 for one in found
    )


# What the README tells those without torchcodec to do: the sound as it is in the shard.
UNDECODED = datasets.Features(
    {
        "flac": datasets.Value("binary"),
        "txt": datasets.Value("string"),
        "json": {
            "speaker": datasets.Value("string"),
            "label": datasets.Value("string"),
            "label_probs": datasets.List(datasets.Value("float32")),
            "split": datasets.Value("string"),
        },
    }
)


def test_packed_shards_open_in_datasets(tmp_path: Path) -> None:
    """The Hugging Face loader reads all splits.

    Sound, label and probabilities are what was packed.
    """
    make_selection(tmp_path)
    run(tmp_path)

    files = {
        split: str(tmp_path / "packed" / f"{split}-*.tar")
        for split in ("train", "validation", "test")
    }

    loaded = datasets.load_dataset(
        "webdataset", data_files=files, cache_dir=str(tmp_path / "cache"), features=UNDECODED
    )

    assert {name: part.num_rows for name, part in loaded.items()} == {
        "train": 63,
        "validation": 9,
        "test": 18,
    }

    metadata = loaded["train"]["json"]
    assert {one["split"] for one in metadata} == {"train"}
    assert {one["label"] for one in metadata} == {"neutral", "anger", "happiness"}
    assert {len(one["label_probs"]) for one in metadata} == {7}
    assert {len(sound) for sound in loaded["train"]["flac"]} == {500}


def test_nulls_in_metadata_do_not_stop_the_hugging_face_loader(tmp_path: Path) -> None:
    """The Hugging Face loader opens shards although a name is null in the first samples only.

    Nulls are left out when packing; otherwise the loader would report a schema error.
    """
    samples = [sample(f"k{number}", "s") for number in range(8)]
    for number, one in enumerate(samples):
        details = {
            "accent": None if number < 6 else "scots",
            "demographics": {"age": None if number < 6 else 40},
        }
        # Words alone: the schema is inferred, and `datasets` would want to decode a sound.
        metadata = {**one.metadata, **details}
        samples[number] = sample(one.key, "s", metadata=metadata, audio=None, audio_format=None)

    make_selection(tmp_path, {"a": samples})
    run(tmp_path)

    loaded = datasets.load_dataset(
        "webdataset",
        data_files={"train": str(tmp_path / "packed" / "train-*.tar")},
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )

    assert loaded.num_rows == 8


def test_a_shard_changed_since_labeling_is_an_error(tmp_path: Path) -> None:
    """A shard whose size or version has changed is an error before anything is written."""
    make_selection(tmp_path)
    os.utime(tmp_path / "shards" / "b.tar", ns=(1, 1))
    with pytest.raises(
        BadShard, match=r"changed_shard: .*b.tar: got .*version 1, expected .*emostream label"
    ):
        run(tmp_path)
    assert not (tmp_path / "packed").exists()


def test_a_moved_corpus_is_packed(tmp_path: Path) -> None:
    """Shards that were copied elsewhere are found by name and size."""
    make_selection(tmp_path)
    (tmp_path / "shards").rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "b.tar", ns=(1, 1))
    assert run(tmp_path, shards=str(tmp_path / "moved")).num_utterances == 90


def test_a_moved_shard_of_another_size_is_an_error(tmp_path: Path) -> None:
    """A copy of a shard is refused if its size is not the labeled one.

    It is refused even if every kept sample is still in its place.
    """
    make_selection(tmp_path)
    (tmp_path / "shards").rename(tmp_path / "moved")
    with (tmp_path / "moved" / "a.tar").open("ab") as stream:
        stream.write(bytes(512))
    with pytest.raises(BadShard, match=r"changed_shard: .*a.tar: got \d+ bytes"):
        run(tmp_path, shards=str(tmp_path / "moved"))


@pytest.mark.parametrize("damage", ["other_key", "header", "bad_json"])
def test_a_moved_and_changed_shard_is_never_a_wrong_label(tmp_path: Path, damage: str) -> None:
    """A changed shard is an error that names the shard, even if its name and size agree by chance.

    The key found in each place does not agree.
    """
    make_selection(tmp_path)
    (tmp_path / "shards").rename(tmp_path / "moved")

    path = tmp_path / "moved" / "a.tar"
    data, samples = path.read_bytes(), contents(path)

    if damage == "other_key":
        with path.open("wb") as stream, TarWriter(stream) as writer:
            for key, members in samples.items():
                writer.add(key.replace("speaker-00", "speaker-xx"), members)
    elif damage == "header":
        path.write_bytes(data[:100] + b"9" + data[101:])
    else:
        path.write_bytes(data.replace(b'{"clip":', b'{"clip";', 1))

    assert path.stat().st_size == len(data)
    with pytest.raises(BadShard, match=r"shard 'a.tar': .*"):
        run(tmp_path, shards=str(tmp_path / "moved" / "*.tar"))
    assert not (tmp_path / "packed" / "pack-summary.json").exists()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    """A labeled shard that is not among --shards is an error before anything is written."""
    make_selection(tmp_path)
    with pytest.raises(ConfigError, match=r"'b.tar'.*--shards"):
        run(tmp_path, shards=str(tmp_path / "shards" / "a.tar"))


def test_the_labeled_shards_folder_is_no_place_to_pack(tmp_path: Path) -> None:
    """Packing into the folder of the labeled shards is refused, as it could remove them."""
    make_selection(tmp_path)
    with pytest.raises(ConfigError, match="the folder of the labeled shards"):
        run(tmp_path, "shards")


def test_an_empty_selection_is_refused(tmp_path: Path) -> None:
    """A selection that keeps nothing is an error that says where to look."""
    make_selection(tmp_path, min_per_speaker=1000)
    with pytest.raises(ConfigError, match=r"keeps no utterance; its summary.json says why"):
        run(tmp_path)


def test_progress_counts_shards(tmp_path: Path) -> None:
    """Every written shard is reported once."""
    make_selection(tmp_path)
    seen: list[tuple[int, int]] = []
    config = PackConfig(
        shards=str(tmp_path / "shards"),
        selection=str(tmp_path / "selection"),
        out=str(tmp_path / "packed"),
    )
    pack(config, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_packing_works_on_remote_folders(tmp_path: Path) -> None:
    """Training shards can be written, replaced and resumed behind a URL."""
    make_selection(tmp_path)
    out = "memory://packing-test/packed"
    settings = {
        "shards": str(tmp_path / "shards"),
        "selection": str(tmp_path / "selection"),
        "out": out,
    }

    assert pack(PackConfig(**settings)).num_written == 3
    again = pack(PackConfig(**settings))
    assert (again.num_written, again.num_shards, again.num_utterances) == (0, 3, 90)


@pytest.mark.parametrize("options", [{"shard_size_mb": 0}, {"num_workers": 0}])
def test_unusable_options_are_refused(options: dict[str, int]) -> None:
    """The error names the option as it is written on the command line."""
    with pytest.raises(
        ConfigError, match=r"--(shard-size-mb|num-workers): got 0, expected at least 1"
    ):
        PackConfig(shards="a", selection="b", out="c", **options)
