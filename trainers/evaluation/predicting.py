"""A trained recognizer on a split: one speaker at a time, with the support set the question asks
for.

`same` is the paper's protocol: the utterances of a set are each other's support. `disjoint` and
`wrong` are controls: support from other utterances of the same speaker must keep a personalized
model's gain, support from another speaker must lose it.

Shapes: N utterances, C classes or values, D width, B sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging as transformers_logging

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch, evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.known_speakers import training_utterances
from shards.loading.loader import Batch, BatchReader, read_once
from shards.loading.targets import TargetConfig, Targets, read_targets
from trainers.evaluation.targets import TARGETS, Target
from trainers.models.parts.device import default_device
from trainers.models.recognizer import EmotionRecognizer, Recognition, is_recognizer
from trainers.models.trained import TrainedRecognizer, load_trained
from trainers.preparation.proxy_speakers import assign_speakers

Support = Literal["same", "disjoint", "wrong"]
VANILLA_SET_SIZE = 32


@dataclass(frozen=True, slots=True)
class Predicted:
    """Scores [N, C] (probabilities or values), pooled features [N, D] and the number of its set [N]
    for every utterance, in the index's order; P's embedding of each set [B, D] (None without P).
    `codes` are the entries of P's codebook that were chosen at least once, by any layer (None
    without a codebook).
    """

    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    sets: NDArray[np.int64]
    set_embeddings: NDArray[np.float32] | None
    codes: NDArray[np.int64] | None


def load_recognizer(folder: str) -> TrainedRecognizer:
    """A recognizer that `train` exported, on this process's GPU where there is one.

    Raises ConfigError when the folder holds none.
    """
    if not (Path(folder) / "config.json").exists():
        raise ConfigError(
            f"--checkpoint {folder}: no exported model; expected a folder such as RUN/best"
        )

    transformers_logging.disable_progress_bar()  # a bar a loaded file says nothing
    try:
        if is_recognizer(folder):
            trained = load_trained(folder)
            trained.model.eval().to(default_device())
            return trained
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint {folder}: cannot be loaded: {error}") from error

    raise ConfigError(
        f"--checkpoint {folder}: got another model, expected a recognizer; fine-tune an encoder "
        f"first, with `emostream train finetune --set encoder.checkpoint={folder}`"
    )


def target_answered(model: EmotionRecognizer) -> Target:
    """What the model answers."""
    return TARGETS[model.config.target_kind](model.config.names)


@torch.inference_mode()
def predict(
    trained: TrainedRecognizer,
    index: CorpusIndex,
    *,
    set_size: int = 8,
    support: Support = "same",
    seed: int = 0,
) -> Predicted:
    """Recognize every utterance of `index`, in sets of at most `set_size` of one speaker."""
    model = trained.model
    personalized = model.extractor is not None
    if support != "same" and not personalized:
        raise ConfigError(
            f"--support {support}: this model is not personalized, so no support set reaches it"
        )

    device, target = next(model.parameters()).device, target_answered(model)
    planned = plan_sets(
        index.rows_by_speaker(), set_size if personalized else VANILLA_SET_SIZE, support, seed
    )
    reader = BatchReader(index, [model.input_name], clip=model.clip_format)
    numbers = (
        {}
        if trained.speakers is None
        else assign_speakers(trained.speakers, index, model.config.modality)
    )

    answers = np.empty((len(index), len(model.config.names)), dtype=np.float32)
    features = np.empty((len(index), model.encoder.width), dtype=np.float32)
    set_numbers = np.empty(len(index), dtype=np.int64)
    embeddings: list[NDArray[np.float32]] = []
    codes: list[Tensor] = []

    # A planned set is what is to be predicted, and behind it its support: rows beyond
    # `num_predicted` are only heard.
    batches = read_once(reader, [plan for plan, _ in planned])
    for number, (batch, (plan, num_predicted)) in enumerate(zip(batches, planned, strict=True)):
        found = _recognize(model, batch.to(device), num_predicted, numbers)
        rows = plan.rows[:num_predicted]
        answers[rows] = target.answers(found.scores_NC)[:num_predicted].cpu().numpy()
        features[rows] = found.pooled_ND[:num_predicted].float().cpu().numpy()
        set_numbers[rows] = number

        if found.speakers_BD is not None:
            embeddings.append(found.speakers_BD.float().cpu().numpy())
        codes += [torch.unique(chosen).cpu() for chosen in found.codes]

    return Predicted(
        scores=answers,
        features=features,
        sets=set_numbers,
        set_embeddings=np.concatenate(embeddings) if embeddings else None,
        codes=torch.unique(torch.cat(codes)).numpy() if codes else None,
    )


def _recognize(
    model: EmotionRecognizer, batch: Batch, num_predicted: int, numbers: Mapping[str, int]
) -> Recognition:
    """One batch, a set of one speaker; what follows the first `num_predicted` utterances is their
    support.
    """
    heard = batch.inputs[model.input_name]
    places = torch.arange(len(batch), device=batch.rows.device)
    sets = batch.sets if model.extractor is None else torch.zeros_like(places)
    source = places >= num_predicted if num_predicted < len(batch) else None
    speakers = None
    if numbers:
        speakers = torch.tensor(
            [numbers[speaker] for speaker in batch.speakers], device=places.device
        )

    found: Recognition = model(heard.values, heard.lengths, sets, source, speakers)
    return found


def plan_sets(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], set_size: int, support: Support, seed: int
) -> list[tuple[PlannedBatch, int]]:
    """Sets of at most `set_size` (0: all) of a speaker, each followed by its support; and how many
    are to be predicted.

    Raises ConfigError where there is no such support.
    """
    if support == "disjoint":
        sets = _halved_where_needed(rows_by_speaker, set_size, seed)
    else:
        sets = evaluation_batches(rows_by_speaker, set_size, seed=seed)
    return _with_support(sets, rows_by_speaker, support, seed)


def can_support(index: CorpusIndex) -> NDArray[np.bool_]:
    """Which utterances have another of the same speaker, that their support can be made from."""
    numbers = {speaker: len(rows) for speaker, rows in index.rows_by_speaker().items()}
    return np.asarray([numbers[speaker] > 1 for speaker in index.table["speaker"].to_pylist()])


def _halved_where_needed(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], set_size: int, seed: int
) -> list[PlannedBatch]:
    """Sets that leave each speaker something to be supported by: of at most half the speaker's
    utterances.

    Raises ConfigError for a speaker with one utterance.
    """
    sets: list[PlannedBatch] = []
    for place, (speaker, rows) in enumerate(rows_by_speaker.items()):
        if len(rows) < 2:
            raise ConfigError(
                f"--support disjoint: speaker {speaker!r} has one utterance, which nothing else "
                "supports"
            )
        half = len(rows) // 2
        sets += evaluation_batches({speaker: rows}, min(set_size or half, half), seed=seed + place)
    return sets


def _with_support(
    sets: Sequence[PlannedBatch],
    rows_by_speaker: Mapping[str, NDArray[np.int64]],
    support: Support,
    seed: int,
) -> list[tuple[PlannedBatch, int]]:
    if support == "same":
        return [(batch, len(batch.rows)) for batch in sets]
    if support == "wrong" and len(rows_by_speaker) < 2:
        raise ConfigError("--support wrong: the split has one speaker, expected at least two")
    all_rows = list(rows_by_speaker.values())
    speaker_of = {row: place for place, rows in enumerate(all_rows) for row in rows.tolist()}
    supported = []
    for batch in sets:
        own = speaker_of[int(batch.rows[0])]
        rng = np.random.default_rng([seed, own, int(batch.rows.min())])
        if support == "wrong":
            pool = all_rows[(own + 1 + int(rng.integers(len(all_rows) - 1))) % len(all_rows)]
        else:
            pool = np.setdiff1d(all_rows[own], batch.rows)
        chosen = rng.choice(pool, size=min(len(batch.rows), len(pool)), replace=False)
        rows = np.concatenate([batch.rows, chosen])
        supported.append((PlannedBatch(rows, np.zeros(len(rows), dtype=np.int64)), len(batch.rows)))
    return supported


def seconds_heard(model: EmotionRecognizer, split: str) -> float:
    """How much of each speaker of `split` the model, or one that it went on from, was trained on.

    The most of them: what fewer seconds take of a speaker is part of what more take.
    """
    seconds, trained_on = 0.0, model.config.trained_on
    while trained_on:
        if trained_on.get("known_split") == split:
            seconds = max(seconds, trained_on["known_seconds"])
        trained_on = trained_on.get("start", {})
    return seconds


def utterances_learned(model: EmotionRecognizer, corpus: CorpusIndex) -> CorpusIndex:
    """The utterances of the split train that the model was trained on: all, or those of some
    speakers.
    """
    trained_on = model.config.trained_on
    number, seconds = trained_on.get("num_speakers"), trained_on.get("known_seconds", 0.0)
    return training_utterances(corpus, number, seconds, trained_on.get("known_split", "")).split(
        "train"
    )


def labels_learned(model: EmotionRecognizer, train: CorpusIndex) -> Targets:
    """The labels of training utterances that the model was trained on; PLDC knows no others."""
    target = target_answered(model)
    saved = model.config.trained_on.get("target")
    config = target.by_default if saved is None else from_mapping(TargetConfig, saved)

    return read_targets(train, config, target.names)
