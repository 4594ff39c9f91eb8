"""O2's classifier on GoEmotions: how its sentiment agrees with what people said is felt.

Small text teachers are tried: that of the synthetic worlds, who has read their sentences alone, and
one who has learned from GoEmotions' own training comments; and any checkpoint that is named. Only
comments with one emotion count. Surprise is neither positive nor negative, so that its comments are
in no agreement: the share of each sentiment that they get is given beside it.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score, f1_score

from actors.inference.checkpoints import CheckpointConfig, locate
from actors.inference.config import BatchingConfig
from actors.inference.runtime import Runtime, prepare_torch
from actors.labeling.labelers.objectives import SENTIMENTS, Sentiment
from tests.benchmarks.training.multimodal.runs import Bench
from trainers.teachers.inputs import TrainingUtterance
from trainers.teachers.train import TeacherConfig, train_teacher

NUM_STEPS = 1000  # of our own teacher; after 250 it calls no comment negative
OF_WORLDS, OF_GOEMOTIONS, NAMED = "teacher of the worlds", "teacher of GoEmotions", "named"
SENTIMENT_OF = {
    "joy": "positive",
    "neutral": "neutral",
    "anger": "negative",
    "disgust": "negative",
    "fear": "negative",
    "sadness": "negative",
}
SURPRISE = "surprise"


def measure_sentiment(bench: Bench, corpus: str, name: str) -> dict[str, float]:
    """Agreement, what the commonest sentiment alone would reach, kappa and macro-F1, in percent.

    Beside them, the share of agreement for each emotion, and what comments of surprise get.
    """
    comments = _read(bench.goemotions / "test.tsv", bench.goemotions / "labels.txt")
    found = _sentiments(_checkpoint(bench, corpus, name), [text for text, _ in comments])
    emotions = np.asarray([emotion for _, emotion in comments])

    is_judged = emotions != SURPRISE
    truth = np.asarray([SENTIMENT_OF[emotion] for emotion in emotions[is_judged]])
    mine = found[is_judged]
    figures = {
        "agreement": float(np.mean(truth == mine)),
        "commonest": Counter(truth.tolist()).most_common(1)[0][1] / len(truth),
        "kappa": float(cohen_kappa_score(truth, mine)),
        "macro-F1": float(f1_score(truth, mine, average="macro")),
    }

    for emotion, sentiment in SENTIMENT_OF.items():
        figures[f"{emotion} as {sentiment}"] = float(
            np.mean(found[emotions == emotion] == sentiment)
        )
    for sentiment in SENTIMENTS:
        share = np.mean(found[emotions == SURPRISE] == sentiment)
        figures[f"{SURPRISE} as {sentiment}"] = float(share)
    return {name: 100 * value for name, value in figures.items()}


def _checkpoint(bench: Bench, corpus: str, name: str) -> str:
    if name == OF_WORLDS:
        return str(bench.place(corpus) / "sentiment")
    if name == NAMED:
        return str(bench.sentiment)

    folder = bench.folder / "goemotions-teacher"
    if not (folder / "teacher_report.json").exists():
        comments = _read(bench.goemotions / "train.tsv", bench.goemotions / "labels.txt")
        utterances = [
            # Nobody says who wrote a comment; each counts as a writer's only one.
            TrainingUtterance(speaker=str(row), label=SENTIMENT_OF[emotion], transcript=text)
            for row, (text, emotion) in enumerate(comments)
            if emotion != SURPRISE
        ]
        options = replace(TeacherConfig.for_kind("text"), num_steps=NUM_STEPS)
        train_teacher("text", utterances, options, folder)
    return str(folder)


def _read(comments: Path, labels: Path) -> list[tuple[str, str]]:
    """The comments that have exactly one emotion, each with it."""
    names = labels.read_text().split()
    with comments.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(text, names[int(which)]) for text, which, _ in rows if "," not in which]


def _sentiments(checkpoint: str, texts: Sequence[str]) -> NDArray[np.str_]:
    """The likeliest sentiment of each text [N]; "none" of one that has no words."""
    prepare_torch(1)
    config = CheckpointConfig(checkpoint=checkpoint)
    labeler = Sentiment(config)
    labeler.setup(locate(config), Runtime.of("float32", 0.02, BatchingConfig()))
    rows = labeler.compute(texts)
    return np.asarray(
        [SENTIMENTS[int(row.argmax())] if isinstance(row, np.ndarray) else "none" for row in rows]
    )
