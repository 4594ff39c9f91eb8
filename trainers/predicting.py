"""A trained recogniser on a split: one speaker at a time, with the support set the question asks for.

`same` is the paper's protocol: the utterances of a set are each other's support. `disjoint` and `wrong` are controls:
support from other utterances of the same speaker must keep a personalised model's gain, support from another speaker
must lose it.

Shapes: N utterances, C classes or values, D width, B sets.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.utils import logging as transformers_logging

from shards.batch_plan import PlannedBatch, evaluation_batches
from shards.config import ConfigError
from shards.corpus_index import CorpusIndex
from shards.loader import BatchReader, read_once
from shards.targets import TargetConfig, Targets, no_targets, read_targets
from trainers.models.recognizer import EmotionRecognizer
from trainers.proxy_speakers import assign_speakers

Support = Literal["same", "disjoint", "wrong"]
VANILLA_SET_SIZE = 32


@dataclass(frozen=True, slots=True)
class Predicted:
    """Scores [N, C] (probabilities or values) and pooled features [N, D] of every utterance, in the index's order, and
    P's embedding of the set each was recognised in [N, D] (None without P). `codes` are the entries of P's codebook
    that were chosen at least once, by any layer (None without a codebook).
    """

    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    speaker_embeddings: NDArray[np.float32] | None
    codes: NDArray[np.int64] | None


def load_recognizer(folder: str) -> EmotionRecognizer:
    """A recogniser that `train` exported. Raises ConfigError when the folder holds none."""
    if not (Path(folder) / "config.json").exists():
        raise ConfigError(f"--checkpoint {folder}: no exported model; expected a folder such as RUN/best")
    transformers_logging.disable_progress_bar()  # a bar a loaded file says nothing
    try:
        return EmotionRecognizer.from_pretrained(folder, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        raise ConfigError(f"--checkpoint {folder}: cannot be loaded: {error}") from error


@torch.inference_mode()
def predict(
    model: EmotionRecognizer, index: CorpusIndex, *, set_size: int = 8, support: Support = "same", seed: int = 0
) -> Predicted:
    """Recognise every utterance of `index`, in sets of at most `set_size` of one speaker."""
    personalised = model.extractor is not None
    if support != "same" and not personalised:
        raise ConfigError(f"--support {support}: this model is not personalised, so no support set reaches it")
    sets = evaluation_batches(index.rows_by_speaker(), set_size if personalised else VANILLA_SET_SIZE, seed=seed)
    planned = [_with_support(batch, index.rows_by_speaker(), support, seed) for batch in sets]
    reader = BatchReader(index, no_targets(index), model.config.modality)
    state = model.speaker_state()
    numbers = {} if state is None else assign_speakers(state, index, model.config.modality)
    width = model.encoder.width
    scores = np.empty((len(index), len(model.config.names)), dtype=np.float32)
    features = np.empty((len(index), width), dtype=np.float32)
    embeddings = np.empty((len(index), width), dtype=np.float32) if personalised else None
    codes: list[Tensor] = []
    for batch, (plan, num_predicted) in zip(read_once(reader, [plan for plan, _ in planned]), planned, strict=True):
        zeros = torch.zeros(len(batch), dtype=torch.long)
        source = None
        if num_predicted < len(batch):
            source = torch.arange(len(batch)) >= num_predicted
        speakers = torch.tensor([numbers[speaker] for speaker in batch.speakers]) if numbers else None
        found = model(batch.inputs, batch.lengths, zeros if personalised else batch.sets, source, speakers)
        rows = plan.rows[:num_predicted]
        values = found.scores_NC if model.config.is_values else found.scores_NC.softmax(dim=-1)
        scores[rows] = values[:num_predicted].numpy()
        features[rows] = found.pooled_ND[:num_predicted].float().numpy()
        if embeddings is not None and found.speakers_BD is not None:
            embeddings[rows] = found.speakers_BD.float().numpy()
        codes += [torch.unique(chosen) for chosen in found.codes]
    return Predicted(scores, features, embeddings, torch.unique(torch.cat(codes)).numpy() if codes else None)


def _with_support(
    batch: PlannedBatch, rows_by_speaker: Mapping[str, NDArray[np.int64]], support: Support, seed: int
) -> tuple[PlannedBatch, int]:
    """The batch followed by its support set, and how many utterances of it are to be predicted."""
    if support == "same":
        return batch, len(batch.rows)
    speakers = list(rows_by_speaker)
    own = next(place for place, speaker in enumerate(speakers) if batch.rows[0] in rows_by_speaker[speaker])
    rng = np.random.default_rng([seed, own, int(batch.rows.min())])
    if support == "wrong":
        others = [place for place in range(len(speakers)) if place != own]
        if not others:
            raise ConfigError("--support wrong: the split has one speaker, expected at least two")
        pool = rows_by_speaker[speakers[int(rng.choice(others))]]
    else:
        pool = np.setdiff1d(rows_by_speaker[speakers[own]], batch.rows)
        if not len(pool):
            return batch, len(batch.rows)  # all the speaker has is in this set
    chosen = rng.choice(pool, size=min(len(batch.rows), len(pool)), replace=False)
    rows = np.concatenate([batch.rows, chosen])
    return PlannedBatch(rows, np.zeros(len(rows), dtype=np.int64)), len(batch.rows)


def truth_of(index: CorpusIndex, names: tuple[str, ...], *, is_values: bool) -> tuple[Targets, str]:
    """What predictions are compared with, and its name: the true emotion where it is known, else the weak label."""
    if is_values:
        return read_targets(index, TargetConfig(kind="values", values=names), names), ", ".join(names)
    has_truth = any(emotion is not None for emotion in index.table["emotion"].to_pylist())
    kind: Literal["emotion", "label"] = "emotion" if has_truth else "label"
    return read_targets(index, TargetConfig(kind=kind), names), "true emotion" if has_truth else "weak label"
