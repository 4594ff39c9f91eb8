"""Corpora of the pre-training benchmark: pools to pre-train on, and labeled speakers to probe.

`world-S` holds the labeled speakers of a synthetic world, with four emotions and the truth as
labels, split by speaker; `foreign-S` is that world in another language. In `talk-S` its speakers
talk to each other in twos, and emotions last and spread; in `apart-S` they talk too, but what one
feels has nothing to do with what was felt before, so that nothing can be predicted. Speakers of the
pools are outside all splits: in `pool-S` they show emotions, in `calm-S` everything is neutral, as
where somebody reads a book aloud. RAVDESS is imported once as it is, and once as
`ravdess-permuted`, whose labels are permuted within each actor: nothing can be learned there.
LibriSpeech is its calm pool, and `librispeech-actors` its other one, with the first eight actors of
RAVDESS beside. These are left out of what is probed: a pool of each fold's own training actors
would need an encoder for each fold.
"""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from shards.config import ConfigError
from shards.emotions import canonical_emotion
from shards.grouping import group_rows
from shards.samples.sample import encode_sample
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import World, iterate_samples
from shards.synthetic.dialogues import DialogueConfig
from shards.tar.writer import TarWriter
from tests import ROOT
from tests.benchmarks.training.personalization_corpora import CLASSES, world_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

POOLS = ("pool", "calm")
DIALOGUES = {
    "talk": DialogueConfig(persistence=0.6, contagion=0.2),
    "apart": DialogueConfig(),
}
FIRST_OF_POOL = 1000  # the number of the first speaker of a pool
RAVDESS, PERMUTED, LIBRISPEECH = "ravdess", "ravdess-permuted", "librispeech"
WITH_ACTORS = "librispeech-actors"
# Four men and four women, whose sound an encoder hears without labels and no probe hears.
POOL_ACTORS = tuple(f"ravdess_{number:02d}" for number in range(1, 9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Everything that is large or small: speakers, the encoder, and how long things are trained.

    `labels` are numbers of labeled training utterances; all of them are always probed too.
    """

    pool_speakers: int
    train_speakers: int
    validation_speakers: int
    test_speakers: int
    width: int
    layers: int
    prenet_layers: int
    clones: int
    steps: int
    utterances: int
    labels: Sequence[int]
    resamplings: int
    probe_epochs: int


def require_same_sizes(folder: Path, sizes: "DataclassInstance") -> None:
    """Raise ConfigError when a kept folder was made with other sizes: nothing would compare.

    `sizes` is a benchmark's dataclass of numbers and lists of numbers.
    """
    path, mine = folder / "sizes.json", json.loads(json.dumps(asdict(sizes)))
    if not path.exists():
        write_json(path, mine)
        return

    found = read_json(path)
    if found != mine:
        changed = [name for name, value in mine.items() if found.get(name) != value]
        raise ConfigError(
            f"--keep {folder}: was made with other sizes ({', '.join(changed)}); give those of its "
            "sizes.json, or another folder"
        )


def write_corpora(
    folder: Path, names: Iterable[str], sizes: Sizes, ravdess: Path, librispeech: Path
) -> None:
    """Write those of the corpora that are not there yet."""
    for name in sorted(set(names)):
        place = folder / "corpora" / name
        if (place / "_complete").exists():
            continue

        place.mkdir(parents=True, exist_ok=True)
        if name == LIBRISPEECH:
            _import(librispeech, _rows(librispeech), place)
        elif name == WITH_ACTORS:
            _import(*_with_actors(librispeech, ravdess), place)
        elif name in (RAVDESS, PERMUTED):
            probed = [row for row in _rows(ravdess) if row["speaker"] not in POOL_ACTORS]
            _import(ravdess, _labeled(probed, permuted=name == PERMUTED), place)
        else:
            _write_world(name, sizes, place)
        (place / "_complete").touch()


def corpus_config(name: str) -> WorldConfig:
    """The world that a synthetic corpus is from."""
    kind, _, number = name.partition("-")
    config = world_config(f"world-{number}")
    if kind == "calm":
        return replace(config, emotional_rate=0.0)
    if kind in DIALOGUES:
        return replace(config, dialogue=DIALOGUES[kind])
    return replace(config, language=1) if kind == "foreign" else config


def _write_world(name: str, sizes: Sizes, folder: Path) -> None:
    config, kind = corpus_config(name), name.partition("-")[0]
    if kind in POOLS:
        pool = range(FIRST_OF_POOL, FIRST_OF_POOL + sizes.pool_speakers)
        _write_split(config, "train", pool, folder)
        return

    first = 0
    for split in ("train", "validation", "test"):
        number = getattr(sizes, f"{split}_speakers")
        _write_split(config, split, range(first, first + number), folder)
        first += number


def _write_split(config: WorldConfig, split: str, speakers: Iterable[int], folder: Path) -> None:
    with atomic_write(f"{folder}/{split}-000000.tar") as stream:
        writer = TarWriter(stream)
        for sample in iterate_samples(World(config), speakers):
            # The prior leaves next to nothing of the other emotions; a class of one is no class.
            if sample.metadata["emotion"] in CLASSES:
                stated = replace(sample, metadata={**sample.metadata, "split": split})
                writer.add(sample.key, encode_sample(stated))
        writer.close()


def _rows(source: Path) -> list[dict[str, str]]:
    with (source / "clips.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _labeled(rows: list[dict[str, str]], *, permuted: bool) -> list[dict[str, str]]:
    """The rows with a label each: its own, or in another order within each actor."""
    # Calm is the corpus' eighth class.
    labels = np.asarray(
        [canonical_emotion(row["emotion"].replace("calm", "neutral")) for row in rows], dtype=object
    )
    if permuted:
        rng = np.random.default_rng(0)
        for mine in group_rows(np.asarray([row["speaker"] for row in rows])).values():
            labels[mine] = rng.permutation(labels[mine])

    return [row | {"emotion": str(label)} for row, label in zip(rows, labels, strict=True)]


def _with_actors(librispeech: Path, ravdess: Path) -> tuple[Path, list[dict[str, str]]]:
    """The folder that holds both sources, and the rows of LibriSpeech and of the pool's actors."""
    root = Path(os.path.commonpath([librispeech.resolve(), ravdess.resolve()]))
    rows = []
    for source in (librispeech, ravdess):
        folder = source.resolve().relative_to(root)
        rows += [
            {"clip": row["clip"], "audio": f"{folder}/{row['audio']}", "speaker": row["speaker"]}
            for row in _rows(source)
            if source == librispeech or row["speaker"] in POOL_ACTORS
        ]
    return root, rows


def _import(source: Path, rows: list[dict[str, str]], folder: Path) -> None:
    """Import with `emostream import`."""
    table = folder / "table.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "split"])
        writer.writeheader()
        writer.writerows(row | {"split": "train"} for row in rows)

    command = ["import", str(table), "--root", str(source), "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "cluster", *command], cwd=ROOT, check=True)
