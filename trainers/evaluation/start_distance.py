"""How far training has moved an encoder from the one that it started from (`evaluate --start`).

It is the analysis of multimodal-adaptive-pretraining, Figure 3: the mean cosine distance between an
utterance's embeddings under the two encoders. An embedding is the plain mean of the last layer's
frames. Prefixes and speaker embeddings, which personalize a recognizer, are left out: they say how
the encoder is used, and not how it has changed.

Shapes: N utterances, D width, G groups of speakers, R resamples.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from shards.config import ConfigError
from shards.loading.batch_plan import evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader, Padded, read_once
from shards.resampling import SpeakerResamples
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.predicting import Recognizer
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.encoders.statistics import StatisticsEncoderConfig
from trainers.models.parts.device import default_device
from trainers.models.parts.pooling import masked_mean
from trainers.models.recognizer import EmotionRecognizer, is_recognizer
from trainers.models.trained import load_trained
from trainers.models.two_stage.recognizer import TwoStageRecognizer

BATCH_SIZE = 32


def load_start(config: EvaluateConfig, model: Recognizer) -> LayerwiseEncoder | None:
    """The encoder that `--start` names, on this process's GPU if it has one; None without it.

    Raises ConfigError for what cannot be loaded, for a `model` without an encoder of sound that is
    trained, and for an encoder that the model cannot have started from.
    """
    if config.start is None:
        return None
    _require_trained_encoder_of_sound(config.start, model)

    start = _load(config.start, config.start_revision)
    mine, theirs = _kind(model.encoder), _kind(start)
    if mine != theirs:
        raise ConfigError(
            f"--start {config.start}: got {theirs}, expected {mine}, like the evaluated model's "
            "encoder; give the encoder.checkpoint that this model was trained from"
        )
    return start.eval().to(default_device())


@torch.inference_mode()
def distances_from_start(
    model: EmotionRecognizer, start: LayerwiseEncoder, index: CorpusIndex
) -> NDArray[np.float64]:
    """1 - cosine of each utterance's two embeddings [N]: from 0, unmoved, to 2, opposite."""
    device = next(model.parameters()).device
    reader = BatchReader(index, [model.input_name])
    planned = evaluation_batches(index.rows_by_speaker(), BATCH_SIZE, seed=0)

    distances = np.empty(len(index))
    for batch, plan in zip(read_once(reader, planned), planned, strict=True):
        heard = batch.to(device).inputs[model.input_name]
        mine_ND, theirs_ND = embeddings(model.encoder, heard), embeddings(start, heard)
        similar_N = cosine_similarity(mine_ND.double(), theirs_ND.double(), dim=1)
        # Equal vectors may differ from a cosine of 1 in the last bit, on either side.
        distances[plan.rows] = (1 - similar_N).clamp(0, 2).cpu().numpy()

    return distances


def embeddings(encoder: LayerwiseEncoder, heard: Padded) -> Tensor:
    """The mean of the last layer's frames of each utterance [N, D]; padding has no part in it."""
    return masked_mean(*encoder(heard.values, heard.lengths))


def describe_distances(
    config: EvaluateConfig, distances: NDArray[np.float64], speakers: NDArray[np.object_]
) -> dict[str, Any]:
    """What metrics.json says of the `distances` [N]: their mean and its interval over speakers.

    `speakers` [N] are those of the utterances. The ends of the interval are None with one speaker.
    """
    _, number = np.unique(speakers.astype(str), return_inverse=True)
    resamples = SpeakerResamples(number.astype(np.int64), config.seed)

    sums_G2 = np.zeros((resamples.num_groups, 2))
    np.add.at(sums_G2, resamples.group, np.stack([distances, np.ones_like(distances)], axis=1))
    sums_R2 = resamples.totals(sums_G2)
    ends = resamples.interval(sums_R2[:, 0] / sums_R2[:, 1])

    return {
        "encoder": config.start,
        "revision": config.start_revision,
        "number": len(distances),
        "cosine_distance": float(distances.mean()),
        "interval": [None if np.isnan(end) else round(end, 6) for end in ends],
    }


def _load(checkpoint: str, revision: str | None) -> LayerwiseEncoder:
    if not is_recognizer(checkpoint):
        return load_encoder(checkpoint, revision, options=("--start", "--start-revision"))

    try:
        return load_trained(checkpoint).model.encoder
    except (OSError, ValueError) as error:
        raise ConfigError(f"--start {checkpoint}: cannot be loaded: {error}") from error


def _require_trained_encoder_of_sound(start: str, model: Recognizer) -> None:
    if isinstance(model, TwoStageRecognizer):
        raise ConfigError(
            f"--start {start}: the evaluated model is one of two-stage, whose branches have "
            "encoders of their own; evaluate a model with one encoder, or leave --start out"
        )
    family = model.config.encoder["model_type"]
    if family == StatisticsEncoderConfig.model_type:
        raise ConfigError(
            f"--start {start}: the evaluated model classifies statistics and has no encoder that "
            "training moves; leave --start out"
        )
    if model.config.modality != "audio":
        raise ConfigError(
            f"--start {start}: the evaluated model is one of {model.config.modality}, expected one "
            "of audio; leave --start out"
        )


def _kind(encoder: LayerwiseEncoder) -> str:
    """What an encoder and its start share, for people."""
    family = encoder.model.config.model_type
    return f"{family} with {len(encoder.layers)} layers of width {encoder.width}"
