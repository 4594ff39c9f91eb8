"""Corpora of the multimodal benchmark: pools with targets, and labeled speakers.

A synthetic world is a folder of `pool` (speakers without labels), `labeled` (speakers of all three
splits), and `teaching`, from whose words a small text teacher learns sentiment. Nobody is in two of
them. RAVDESS is pool and labeled speakers in one: folds of speakers divide it. Its faces are 35
action units a clip. LibriSpeech is a pool.

Each has `targets`, which `emostream label` made, and a world has `permuted` ones too.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cluster.jobs.label import LabelConfig, label
from shards.emotions import canonical_emotion
from shards.samples.sample import encode_sample
from shards.storage.files import atomic_write
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import World, iterate_samples, write_corpus
from shards.tables.predictions import OBJECTIVES
from shards.tar.writer import TarWriter
from tests import ROOT
from tests.benchmarks.training.multimodal.methods import LIBRISPEECH
from tests.benchmarks.training.multimodal.runs import Sizes
from trainers.teachers.inputs import TrainingUtterance, read_training_utterances
from trainers.teachers.train import TeacherConfig, train_teacher

RAVDESS = "ravdess"
WORLDS = ("default", "independent-face-and-words", "independent")
FIRST_LABELED, TEACHING = 1000, range(2000, 2040)
WORLD_FACE, ACTION_UNITS = 20, 35
SENTIMENT_OF = {
    "neutral": "neutral",
    "surprise": "neutral",
    "happiness": "positive",
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "sadness": "negative",
}


def write_corpora(
    folder: Path, names: Iterable[str], sizes: Sizes, ravdess: Path, librispeech: Path
) -> None:
    """Write those of the corpora that are not there yet, with their targets."""
    for name in sorted(set(names)):
        place = folder / "corpora" / name
        if (place / "_complete").exists():
            continue

        place.mkdir(parents=True, exist_ok=True)
        if name == RAVDESS:
            _write_ravdess(ravdess, place)
        elif name == LIBRISPEECH:
            _import(librispeech, place, _rows(librispeech))
            _label(place, {"acoustics": {"features": "builtin"}})
        else:
            _write_world(name, sizes, place)
        (place / "_complete").touch()


def world_config(kind: str, seed: int) -> WorldConfig:
    """The world `kind`: default, or one in which some channels tell nothing of what is felt."""
    world = WorldConfig(seed=seed)
    if kind == "default":
        return world

    silent = replace(
        world, face=replace(world.face, independent_rate=1.0), words_independent_rate=1.0
    )
    if kind == "independent-face-and-words":
        return silent
    if kind == "independent":
        return replace(silent, voice=replace(world.voice, independent_rate=1.0))
    raise ValueError(f"world: got {kind!r}, expected {', '.join(WORLDS)}")


def _write_world(name: str, sizes: Sizes, folder: Path) -> None:
    kind, _, number = name.rpartition("-")
    world, workers = world_config(kind, int(number)), os.cpu_count() or 1

    write_corpus(world, str(folder / "pool"), speakers=range(sizes.pool), num_workers=workers)
    first = FIRST_LABELED
    for split in ("train", "validation", "test"):
        number_of_speakers = getattr(sizes, split)
        _write_split(world, split, range(first, first + number_of_speakers), folder / "labeled")
        first += number_of_speakers

    # A teacher is brought along: it learned where words tell.
    words = world_config("default", int(number))
    write_corpus(words, str(folder / "teaching"), speakers=TEACHING, num_workers=workers)
    _train_sentiment(folder)

    _label(
        folder,
        {
            "acoustics": {"features": "builtin"},
            "sentiment": {"checkpoint": "sentiment"},
            "face_features": WORLD_FACE,
        },
    )
    _permute(folder / "targets", folder / "permuted", seed=world.seed)


def _write_split(config: WorldConfig, split: str, speakers: Iterable[int], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with atomic_write(f"{folder}/{split}-000000.tar") as stream:
        writer = TarWriter(stream)
        for sample in iterate_samples(World(config), speakers):
            stated = replace(sample, metadata={**sample.metadata, "split": split})
            writer.add(sample.key, encode_sample(stated))
        writer.close()


def _train_sentiment(folder: Path) -> None:
    utterances = [
        TrainingUtterance(
            speaker=one.speaker, label=SENTIMENT_OF[one.label], transcript=one.transcript
        )
        for one in read_training_utterances(str(folder / "teaching" / "*.tar"), ("text",))
    ]
    train_teacher("text", utterances, TeacherConfig.for_kind("text"), folder / "sentiment")


def _label(folder: Path, objectives: dict[str, Any]) -> None:
    """Make the targets of the pool; those of the labeled speakers have acoustics alone."""
    _label_part(folder, "pool", "targets", objectives)
    if (folder / "labeled").exists():
        acoustics = {"acoustics": objectives["acoustics"]}
        _label_part(folder, "labeled", "labeled-targets", acoustics)


def _label_part(folder: Path, part: str, out: str, objectives: dict[str, Any]) -> None:
    panel = folder / f"{out}.yaml"
    panel.write_text(yaml.safe_dump({"objectives": objectives, "precision": "float32"}))
    shards = str(folder / part / "*.tar")
    label(LabelConfig(shards=shards, out=str(folder / out), panel=str(panel)))


def _permute(targets: Path, permuted: Path, *, seed: int) -> None:
    """Give every utterance of the pool the targets of another one."""
    permuted.mkdir(exist_ok=True)
    paths = sorted(targets.glob("*.parquet"))
    tables = [pq.read_table(path) for path in paths]
    order = np.random.default_rng(seed).permutation(sum(map(len, tables)))
    names = [name for name in OBJECTIVES if name in tables[0].column_names]
    mixed = pa.concat_tables([table.select(names) for table in tables]).take(pa.array(order))

    start = 0
    for path, table in zip(paths, tables, strict=True):
        for name in names:
            place = table.schema.get_field_index(name)
            part = mixed[name].slice(start, len(table))
            table = table.set_column(place, table.schema.field(place), part)
        start += len(table)
        pq.write_table(table, permuted / path.name, compression="zstd")


def _write_ravdess(source: Path, folder: Path) -> None:
    """Import the clips with their action units as faces; calm counts as neutral."""
    units = pq.read_table(source / "face_clips.parquet").to_pydict()
    root = folder / "media"
    (root / "face").mkdir(parents=True, exist_ok=True)
    for clip, values in zip(units["clip"], units["action_units"], strict=True):
        np.save(root / "face" / f"{clip}.npy", np.asarray([values], dtype=np.float32))
    if not (root / "audio").exists():
        (root / "audio").symlink_to(source / "audio")

    rows = []
    for row in _rows(source):
        emotion = canonical_emotion(row["emotion"].replace("calm", "neutral"))
        rows.append(row | {"emotion": str(emotion), "face": f"face/{row['clip']}.npy"})
    _import(root, folder, rows)

    _label(folder, {"acoustics": {"features": "builtin"}, "face_features": ACTION_UNITS})


def _rows(source: Path) -> list[dict[str, str]]:
    with (source / "clips.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _import(root: Path, folder: Path, rows: list[dict[str, str]]) -> None:
    """Import with `emostream import`; folds make the splits, so all of it is stated as train."""
    table = folder / "table.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows(row | {"split": "train"} for row in rows)

    command = ["import", str(table), "--root", str(root), "--out", str(folder / "pool")]
    subprocess.run([sys.executable, "-m", "cluster", *command], cwd=ROOT, check=True)
