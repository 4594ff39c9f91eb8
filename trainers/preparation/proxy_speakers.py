"""Which speaker embedding an utterance gets: its speaker's own, or that of the most alike training
speaker.

The paper's rule for unseen speakers (papt-pldc, section 5): a speaker's vector is the mean over
utterances of the original encoder's mean-pooled frames (Eq. 2), because the adapted encoder cannot
be asked before a proxy is known.

Shapes: S speakers, V width of the original encoder.
"""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from shards.loading.batch_plan import evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.inputs import INPUT_OF, Modality
from shards.loading.loader import BatchReader, read_once
from shards.speakers.table import nearest
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.pooling import masked_mean
from trainers.models.personal.adapted_encoder import SpeakerState

BATCH_UTTERANCES = 32


@torch.inference_mode()
def speaker_vectors(
    original: LayerwiseEncoder, index: CorpusIndex, modality: Modality
) -> tuple[list[str], NDArray[np.float32]]:
    """Speakers, sorted, and their vectors [S, V]."""
    device = next(original.parameters()).device
    sums: dict[str, NDArray[np.float64]] = {}
    planned = evaluation_batches(index.rows_by_speaker(), BATCH_UTTERANCES)
    for batch in read_once(BatchReader(index, [INPUT_OF[modality]]), planned):
        heard = batch.inputs[INPUT_OF[modality]].to(device)
        pooled = masked_mean(*original.eval()(heard.values, heard.lengths))
        total = pooled.double().sum(dim=0).cpu().numpy()
        sums[batch.speakers[0]] = sums.get(batch.speakers[0], 0.0) + total
    counts = {speaker: len(rows) for speaker, rows in index.rows_by_speaker().items()}
    return list(sums), np.stack(
        [total / counts[speaker] for speaker, total in sums.items()]
    ).astype(np.float32)


def assign_speakers(
    state: SpeakerState, index: CorpusIndex, modality: Modality
) -> Mapping[str, int]:
    """The number of the embedding that each speaker of `index` gets: the speaker's own, or the
    proxy's.
    """
    numbers = {name: number for number, name in enumerate(state.names)}
    everyone = index.table["speaker"].to_pylist()
    unseen = index.take(np.flatnonzero([speaker not in numbers for speaker in everyone]))
    if len(unseen):
        strangers, vectors = speaker_vectors(state.original, unseen, modality)
        places, _ = nearest(state.embedding.vectors.cpu().numpy(), vectors, 1)
        numbers |= dict(zip(strangers, places[:, 0].tolist(), strict=True))
    return numbers
