"""Fills in how long utterances are, where their json does not say.

Batches are planned by it. `emostream pack` writes what labeling has measured, but raw shards, on
which recipes without labels train, carry only what the table of the import had.
"""

import logging
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader, read_once
from shards.media.sound_format import SAMPLE_RATE_HZ

BATCH_UTTERANCES = 32

log = logging.getLogger(__name__)


# Does a piece of work for all ranks, such as `engine.ranks.on_first_rank`.
ForAllRanks = Callable[[Callable[[], list[float]]], list[float]]


def with_durations(index: CorpusIndex, for_all_ranks: ForAllRanks) -> CorpusIndex:
    """`index` with the seconds of every utterance; every rank calls this.

    Raises BadShard when an utterance that must be measured has no sound that can be decoded.
    """
    unknown = np.flatnonzero(np.isnan(index.durations))
    if not len(unknown):
        return index

    log.info("measuring the %d utterances whose json has no duration_seconds", len(unknown))
    seconds = index.durations.copy()
    seconds[unknown] = for_all_ranks(lambda: _measured(index.take(unknown)))

    place = index.table.schema.get_field_index("duration_seconds")
    field = index.table.schema.field(place)
    return CorpusIndex(index.table.set_column(place, field, pa.array(seconds, field.type)))


def _measured(index: CorpusIndex) -> list[float]:
    rows = np.arange(len(index))
    batches = [
        PlannedBatch(part, np.arange(len(part)))
        for part in np.array_split(rows, -(-len(rows) // BATCH_UTTERANCES))
    ]
    return [
        length / SAMPLE_RATE_HZ
        for batch in read_once(BatchReader(index, ["sound"]), batches)
        for length in batch.inputs["sound"].lengths.tolist()
    ]
