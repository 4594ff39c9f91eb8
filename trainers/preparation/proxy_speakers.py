"""Decides which speaker embedding each speaker gets: the speaker's own, or that of a proxy.

A training speaker has an embedding. An unseen speaker borrows that of the training speaker who
sounds (for video, looks) most alike, the proxy (papt-pldc, section 5). Speakers are compared by
vectors: a speaker's vector is the mean over utterances of the mean-pooled frames (Eq. 2) of the
original encoder. The adapted encoder cannot make these vectors, because it needs a speaker
embedding to begin with.

Shapes: S speakers, V width of the original encoder.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from shards.loading.batch_plan import evaluation_batches, within_seconds
from shards.loading.index import CorpusIndex
from shards.loading.inputs import INPUT_OF, Modality
from shards.loading.loader import BatchReader, read_once
from shards.media.clip_format import ClipFormat
from shards.speakers.table import nearest
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.adapted_encoder import SpeakerState

BATCH_UTTERANCES = 32
BATCH_SECONDS = 480.0  # padding included: one long utterance must not make 32 so long


@torch.inference_mode()
def speaker_vectors(
    original: LayerwiseEncoder,
    index: CorpusIndex,
    modality: Modality,
    clip: ClipFormat | None = None,
) -> tuple[list[str], NDArray[np.float32]]:
    """The speakers of `index`, sorted by name, and their vectors [S, V].

    `clip` is the format of clips, for video.
    """
    device = next(original.parameters()).device
    sums: dict[str, NDArray[np.float64]] = {}

    # A planned batch holds utterances of one speaker, so the name of its first speaker is that of
    # all. A speaker with many utterances has several batches, so sums are divided only at the end.
    planned = within_seconds(
        evaluation_batches(index.rows_by_speaker(), BATCH_UTTERANCES),
        index.durations,
        BATCH_SECONDS,
    )
    for batch in read_once(BatchReader(index, [INPUT_OF[modality]], clip=clip), planned):
        heard = batch.inputs[INPUT_OF[modality]].to(device)
        pooled = masked_mean(*original.eval()(heard.values, heard.lengths))
        total = pooled.double().sum(dim=0).cpu().numpy()
        sums[batch.speakers[0]] = sums.get(batch.speakers[0], 0.0) + total

    counts = {speaker: len(rows) for speaker, rows in index.rows_by_speaker().items()}
    return list(sums), np.stack(
        [total / counts[speaker] for speaker, total in sums.items()]
    ).astype(np.float32)


def assign_speakers(
    state: SpeakerState,
    index: CorpusIndex,
    modality: Modality,
    clip: ClipFormat | None = None,
) -> Mapping[str, int]:
    """The number of the embedding that each speaker gets: the speaker's own, or the proxy's.

    Covers all speakers of `state` and of `index`. `clip` is the format of clips, for video.
    """
    numbers = {name: number for number, name in enumerate(state.names)}
    everyone = index.table["speaker"].to_pylist()
    unseen = index.take(np.flatnonzero([speaker not in numbers for speaker in everyone]))

    # Vectors of the training speakers are in the order of `state.names`, so the place of the most
    # alike vector is the number of the proxy's embedding.
    if len(unseen):
        strangers, vectors = speaker_vectors(state.original, unseen, modality, clip)
        places, _ = nearest(state.embedding.vectors.cpu().numpy(), vectors, 1)
        numbers |= dict(zip(strangers, places[:, 0].tolist(), strict=True))

    return numbers
