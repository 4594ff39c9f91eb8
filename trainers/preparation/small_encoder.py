"""The small encoder that is trained from nothing: its configuration and its feature statistics.

The small encoder standardizes its features by their mean and standard deviation over training
utterances. For video the small encoder is a small VideoMAE, whose pictures the loader standardizes.

Shapes: F features.
"""

from typing import Any

import numpy as np
import torch
from transformers import VideoMAEConfig

from shards.loading.batch_plan import PlannedBatch
from shards.loading.inputs import Modality
from shards.loading.loader import BatchReader
from trainers.models.encoders.data2vec.front_end import LogMelFrontEnd
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.settings.encoder import EncoderConfig

STATISTICS_UTTERANCES = 500
NUM_MEL_BANDS = 80
BATCH_UTTERANCES = 32


def small_encoder_config(
    encoder: EncoderConfig, modality: Modality, reader: BatchReader
) -> dict[str, Any]:
    """The configuration of a small encoder for the inputs that `reader` reads."""
    if modality == "video":
        return small_video_config(encoder).to_dict()

    config = SequenceEncoderConfig(
        front_end="mel" if modality == "audio" else "face",
        feature_size=NUM_MEL_BANDS if modality == "audio" else feature_size(reader),
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        dropout_probability=encoder.dropout,
    )
    return config.to_dict() | {"model_type": SequenceEncoderConfig.model_type}


def small_video_config(encoder: EncoderConfig) -> VideoMAEConfig:
    """The configuration of a VideoMAE with the sizes of the small encoder."""
    # Without mean pooling, VideoMAE ends with a layer norm. Nothing else would keep the values that
    # the head sees within bounds.
    return VideoMAEConfig(
        image_size=encoder.image_size,
        patch_size=encoder.patch_size,
        num_frames=encoder.num_frames,
        hidden_size=encoder.hidden_size,
        num_hidden_layers=encoder.num_layers,
        num_attention_heads=encoder.num_heads,
        intermediate_size=encoder.intermediate_size,
        hidden_dropout_prob=encoder.dropout,
        attention_probs_dropout_prob=encoder.dropout,
        use_mean_pooling=False,
    )


@torch.inference_mode()
def set_statistics(
    encoder: LayerwiseEncoder, reader: BatchReader, num_utterances: int, *, seed: int
) -> None:
    """Set the mean [F] and standard deviation [F] by which `encoder` standardizes its features.

    They are computed over at most STATISTICS_UTTERANCES of the `num_utterances` training
    utterances. A video encoder has no such statistics.
    """
    small = getattr(encoder.model, "front_end", encoder.model)
    if not isinstance(small, SequenceEncoder | LogMelFrontEnd):
        return

    chosen = np.random.default_rng(seed).permutation(num_utterances)[:STATISTICS_UTTERANCES]
    frames = []
    for rows in np.array_split(chosen, max(1, len(chosen) // BATCH_UTTERANCES)):
        batch = reader[0, PlannedBatch(rows, np.arange(len(rows)))]
        (heard,) = batch.inputs.values()
        features, lengths = small.features(heard.values, heard.lengths)
        # Frames behind an utterance's length are padding and must not count.
        frames += [row[:length] for row, length in zip(features, lengths.tolist(), strict=True)]

    joined = torch.cat(frames).double()
    small.set_statistics(joined.mean(dim=0).float(), joined.std(dim=0).float())


def feature_size(reader: BatchReader) -> int:
    """How many features a frame has."""
    # Only the data tell how many features a frame has, so one utterance is read: row 0, as set 0.
    first = PlannedBatch(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))
    (seen,) = reader[0, first].inputs.values()
    return int(seen.values.shape[-1])
