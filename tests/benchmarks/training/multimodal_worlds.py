"""The worlds of the multimodal benchmark: a pool with targets, labeled speakers, wrong targets.

The pool is labeled by a panel in which a small text teacher judges sentiment; its speakers are not
among those that probes train on and test.
"""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cluster.jobs.label import LabelConfig, label
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from shards.tables.predictions import OBJECTIVES
from trainers.teachers.inputs import TrainingUtterance, read_training_utterances
from trainers.teachers.train import TeacherConfig, train_teacher

POOL, LABELED, TEACHING = range(60), range(100, 140), range(200, 240)
SENTIMENT_OF = {
    "neutral": "neutral",
    "surprise": "neutral",
    "happiness": "positive",
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "sadness": "negative",
}


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
    raise ValueError(
        f"world: got {kind!r}, expected default, independent-face-and-words or independent"
    )


def make_world(folder: Path, world: WorldConfig, sentiment_world: WorldConfig) -> None:
    """Write pool, labeled speakers and the pool's targets, right and permuted, unless all is there.

    The text teacher learns in `sentiment_world`, whose words tell: a teacher is brought along.
    """
    if (folder / "_complete").exists():
        return

    workers = os.cpu_count() or 1
    for name, speakers in (("pool", POOL), ("labeled", LABELED)):
        write_corpus(world, str(folder / name), speakers=speakers, num_workers=workers)
    write_corpus(sentiment_world, str(folder / "teaching"), speakers=TEACHING, num_workers=workers)

    _write_panel(folder)
    label(
        LabelConfig(
            shards=str(folder / "pool" / "*.tar"),
            out=str(folder / "targets"),
            panel=str(folder / "panel.yaml"),
        )
    )
    _permute(folder / "targets", folder / "permuted", seed=world.seed)
    (folder / "_complete").touch()


def _write_panel(folder: Path) -> None:
    utterances = [
        TrainingUtterance(
            speaker=one.speaker, label=SENTIMENT_OF[one.label], transcript=one.transcript
        )
        for one in read_training_utterances(str(folder / "teaching" / "*.tar"), ("text",))
    ]
    train_teacher("text", utterances, TeacherConfig.for_kind("text"), folder / "sentiment")

    objectives = {
        "acoustics": {"features": "builtin"},
        "sentiment": {"checkpoint": "sentiment"},
        "face_features": 20,
    }
    (folder / "panel.yaml").write_text(
        yaml.safe_dump({"objectives": objectives, "precision": "float32"})
    )


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
