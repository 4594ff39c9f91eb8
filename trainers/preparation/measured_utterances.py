"""Pooled features of every utterance of an index, measured once; all ranks share the work.

Shapes: N utterances, D width.
"""

import numpy as np
import torch
import torch.distributed as distributed
from torch import Tensor

from shards.loading.batch_plan import PlannedBatch
from shards.loading.loader import BatchReader, read_once
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.parts.pooling import masked_mean

READ_UTTERANCES = 8


@torch.inference_mode()
def pooled_features(encoder: LayerwiseEncoder, reader: BatchReader, num_utterances: int) -> Tensor:
    """The mean over frames [N, D] of what `encoder` makes of each utterance, on the CPU.

    Every rank calls this, measures its share, and gets them all.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    parts = np.split(
        np.arange(num_utterances), range(READ_UTTERANCES, num_utterances, READ_UTTERANCES)
    )
    planned = [PlannedBatch(rows, np.zeros_like(rows)) for rows in parts]

    mine: dict[int, Tensor] = {}
    for batch in read_once(reader, planned, rank=rank, world_size=world_size):
        (heard,) = batch.to(_device(encoder)).inputs.values()
        pooled_ND = masked_mean(*encoder(heard.values, heard.lengths)).float().cpu()
        mine |= dict(zip(batch.rows.tolist(), pooled_ND, strict=True))

    shares: list[dict[int, Tensor]] = [{} for _ in range(world_size)]
    distributed.all_gather_object(shares, mine)
    everyone = {row: values for share in shares for row, values in share.items()}
    return torch.stack([everyone[row] for row in range(num_utterances)])


def _device(encoder: LayerwiseEncoder) -> torch.device:
    parts = [*encoder.parameters(), *encoder.buffers()]
    return parts[0].device
