"""What packing reads and writes of one shard: the kept bytes and nothing else.

Each file that it writes holds one kind of sample.
"""

import json
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset

from shards.packing.job import PackConfig, pack
from shards.samples.sample import Sample
from shards.selection.job import select
from shards.selection.rule import SelectConfig
from shards.storage.ranged_reader import LocalReader
from tests.shards.selection.inputs import sample, write_corpus

# What the loader makes of members that are no media.
DECODED = {
    "txt": datasets.Value("string"),
    "face.npy": datasets.List(datasets.List(datasets.Value("float32"))),
    "json": {
        **{
            name: datasets.Value("string")
            for name in ("clip", "emotion", "label", "speaker", "split")
        },
        "label_probs": datasets.List(datasets.Value("float64")),
        "duration_seconds": datasets.Value("float64"),
    },
}
FACES = np.ones((2, 3), dtype=np.float32)


def make_selection(folder: Path, samples: list[Sample]) -> list[dict[str, int]]:
    """A labeled shard of `samples`, and a selection of it that is all in train.

    Returns where the kept samples lie.
    """
    write_corpus(folder, {"a": samples})
    config = SelectConfig(
        predictions=str(folder / "predictions"),
        out=str(folder / "selection"),
        teachers=("text", "vision"),
        min_per_speaker=1,
        split_fractions=(1.0, 0.0, 0.0),
    )

    select(config)

    rows: list[dict[str, int]] = pq.read_table(
        folder / "selection" / "selection.parquet"
    ).to_pylist()
    return rows


def run(folder: Path, out: str, shards: str = "shards") -> dict[str, Path]:
    """The packed shards by the kind of their samples; all are of one plan."""
    settings = {
        "shards": str(folder / shards),
        "selection": str(folder / "selection"),
        "out": str(folder / out),
    }
    paths = [folder / out / name for name in pack(PackConfig(**settings)).shards]
    return {path.stem.partition("-000000-")[2][13:]: path for path in paths}


def half_kept() -> list[Sample]:
    """Utterances of two speakers; every other one is sad and so not kept."""
    return [
        sample(f"k{n}", f"s{n % 4 // 2}", "sadness" if n % 2 else "anger", size=3000)
        for n in range(24)
    ]


def test_bytes_of_other_samples_do_not_matter(tmp_path: Path) -> None:
    """The packed shard is the same, byte for byte, if all other samples are zeros.

    "Other" samples are those that are not kept.
    """
    kept = make_selection(tmp_path, half_kept())
    original = (tmp_path / "shards" / "a.tar").read_bytes()

    blank = bytearray(len(original))
    for row in kept:
        place = slice(row["offset"], row["offset"] + row["size"])
        blank[place] = original[place]

    assert len(kept) == 12
    assert blank.count(0) > original.count(0) + 12 * 3000

    (tmp_path / "blank").mkdir()  # a copy elsewhere is known by its name and size
    (tmp_path / "blank" / "a.tar").write_bytes(blank)

    [before], [after] = run(tmp_path, "before").values(), run(tmp_path, "after", "blank").values()
    assert before.read_bytes() == after.read_bytes()


def test_only_kept_ranges_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every read lies inside a kept sample, and each sample is read once."""
    kept = make_selection(tmp_path, half_kept())
    reads: list[tuple[int, int]] = []
    real = LocalReader.read_at

    def watched(self: LocalReader, offset: int, length: int) -> bytes:
        reads.append((offset, length))
        return real(self, offset, length)

    with monkeypatch.context() as patch:
        patch.setattr(LocalReader, "read_at", watched)
        run(tmp_path, "packed")
    whole_selection = (0, (tmp_path / "selection" / "selection.parquet").stat().st_size)
    reads.remove(whole_selection)
    assert sorted(reads) == sorted((row["offset"], row["size"]) for row in kept)


def test_unknown_words_are_an_empty_transcript(tmp_path: Path) -> None:
    """Both libraries read a file whose samples have a transcript or none to its end."""
    samples = [sample(f"k{n}", "s", transcript=None if n < 10 else "so it is") for n in range(12)]
    make_selection(tmp_path, samples)
    [path] = run(tmp_path, "packed").values()
    words = [one["txt"] for one in webdataset.WebDataset(str(path), shardshuffle=False)]
    assert sorted(words) == [b""] * 10 + [b"so it is"] * 2
    assert sorted(load(path, tmp_path)["txt"]) == [""] * 10 + ["so it is"] * 2


def test_each_kind_of_sample_opens_in_both_libraries(tmp_path: Path) -> None:
    """Each file of a corpus of sound, video, faces and words loads in both libraries.

    Together the files hold every sample.
    """
    video = {"audio": None, "audio_format": None, "video": b"not decoded", "video_format": "mp4"}
    text = {"audio": None, "audio_format": None}
    changes: list[dict[str, object]] = [
        {},
        {"audio_format": "mp3"},
        {"face_features": FACES},
        video,
        text,
    ]

    samples = [sample(f"k{n:02d}", "s", **changes[n % 5]) for n in range(30)]
    make_selection(tmp_path, samples)

    packed = run(tmp_path, "packed")
    assert sorted(packed) == ["", "face-flac", "mp3", "mp4", "text"]

    keys: list[str] = []
    for path in packed.values():
        opened = list(webdataset.WebDataset(str(path), shardshuffle=False))
        assert len({frozenset(one) for one in opened}) == 1
        loaded = load(path, tmp_path)
        assert list(loaded["__key__"]) == [one["__key__"] for one in opened]
        assert list(loaded["json"]) == [json.loads(one["json"]) for one in opened]
        keys += loaded["__key__"]

    assert sorted(keys) == sorted(one.key for one in samples)


def load(path: Path, folder: Path) -> datasets.Dataset:
    """A shard in the Hugging Face loader, with sound and video as bytes.

    Decoding them would need more packages.
    """
    first = next(iter(webdataset.WebDataset(str(path), shardshuffle=False)))
    members = [name for name in first if not name.startswith("__")]

    features = datasets.Features(
        {"__key__": datasets.Value("string")}
        | {name: DECODED.get(name, datasets.Value("binary")) for name in members}
    )

    return datasets.load_dataset(
        "webdataset",
        data_files={"train": str(path)},
        split="train",
        cache_dir=str(folder / "cache"),
        features=features,
    )
