"""Corpora of the personalization benchmark: packed shards, split by speaker.

Synthetic worlds have 120 training, 20 validation and 40 test speakers and four emotions. They are
labeled with the truth, so that only the method is measured. Speakers differ in `world-S`. `few-S`
is that world with a tenth of the training speakers, as many as a fold of RAVDESS has, and ten times
as much of each. `scarce-S` has as much of them as RAVDESS has of an actor. In `null-S` nobody
differs, and no method may win. In `linked-S` the group that one hears decides how widely a
speaker's arousal and valence labels spread, and predictions do not follow it. The original encoder
is pre-trained on `general-S`. RAVDESS is imported once; `ravdess-F` is a fold of two test actors.
"""

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from shards.emotions import canonical_emotion
from shards.samples.sample import encode_sample
from shards.storage.files import atomic_write
from shards.synthetic.config import Spread, WorldConfig, null_world
from shards.synthetic.corpus import World, iterate_samples
from shards.tar.reader import TarWriter
from tests import ROOT

CLASSES = ("neutral", "anger", "happiness", "surprise")
SPLITS = {"train": range(120), "validation": range(120, 140), "test": range(140, 180)}
PRIOR = (0.25, 0.25, 1e-6, 1e-6, 0.25, 1e-6, 0.25)
# How far speakers' habits lie apart, in units of what an emotion changes.
BASELINE = Spread(shared=0.7, own=0.7)
NUM_FEW = 12  # training speakers, where they are few
FEW_UTTERANCES = {"few": 360.0, "scarce": 60.0}  # their mean for each of these speakers
RAVDESS = "ravdess"
GENERAL_SEED = 100  # a seed that no other world has
NUM_FOLDS = 12  # of RAVDESS's 24 actors: two to test, two to validate, twenty to train on


def write_corpora(folder: Path, names: Sequence[str], ravdess: Path) -> None:
    """Write those of the corpora that are not there yet."""
    names = sorted({folder_of(name) for name in names})
    missing = [name for name in names if not (folder / name / "_complete").exists()]

    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        running = []
        for name in missing:
            (folder / name).mkdir(exist_ok=True)
            if name != RAVDESS:
                running += [
                    pool.submit(_write_split, name, split, str(folder / name)) for split in SPLITS
                ]

        for future in running:
            future.result()

    for name in missing:
        if name == RAVDESS:
            _import_actors(ravdess, folder / name)
        (folder / name / "_complete").touch()


def folder_of(name: str) -> str:
    """The folder of a corpus; the folds of RAVDESS share one."""
    return RAVDESS if name.startswith(RAVDESS) else name


def fold_options(name: str) -> dict[str, Any]:
    """The options of `data` that divide RAVDESS; none for a world, whose splits are stated."""
    if folder_of(name) != RAVDESS:
        return {}
    return {"folds": f"speaker:{NUM_FOLDS}", "fold": int(name.rpartition("-")[2])}


def world_config(name: str) -> WorldConfig:
    """Return the configuration of the world of that name."""
    kind, _, seed = name.partition("-")
    if kind == "null":
        return replace(null_world(seed=int(seed)), emotion_prior=PRIOR)

    config = WorldConfig(seed=int(seed), voice_baseline=BASELINE, emotion_prior=PRIOR)
    if kind == "linked":
        spread, mean = Spread(shared=0.5, own=0.05), Spread(shared=0.3, own=0.05)
        return replace(config, log_gain=Spread(), label_log_spread=spread, label_mean=mean)
    return config


def _write_split(name: str, split: str, folder: str) -> None:
    config, speakers = world_config(name), SPLITS[split]
    if split == "train" and (mean_utterances := FEW_UTTERANCES.get(name.partition("-")[0])):
        config, speakers = replace(config, mean_utterances=mean_utterances), speakers[:NUM_FEW]

    with atomic_write(f"{folder}/{split}-000000.tar") as stream:
        writer = TarWriter(stream)
        for sample in iterate_samples(World(config), speakers):
            emotion = sample.metadata["emotion"]
            if emotion in CLASSES:
                labeled = replace(
                    sample, metadata={**sample.metadata, "label": emotion, "split": split}
                )
                writer.add(sample.key, encode_sample(labeled))
        writer.close()


def _import_actors(ravdess: Path, folder: Path) -> None:
    """Import with `emostream import`; folds make the splits, so all of it is stated as train."""
    with (ravdess / "clips.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))

    table = folder / "table.csv"
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "label", "split"])
        writer.writeheader()
        for row in rows:
            # Calm is the corpus' eighth class.
            emotion = canonical_emotion(row["emotion"].replace("calm", "neutral"))
            writer.writerow(row | {"emotion": emotion, "label": emotion, "split": "train"})

    command = ["import", str(table), "--root", str(ravdess), "--out", str(folder)]
    subprocess.run([sys.executable, "-m", "cluster", *command], cwd=ROOT, check=True)
