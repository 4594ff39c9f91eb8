"""What the tasks of recipes without labels share: some splits of a corpus, a part of them held out.

Every utterance comes once an epoch, and validation computes the recipe's own loss on the utterances
that are held out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shards.loading.batch_plan import PlannedBatch, evaluation_batches
from shards.loading.index import CorpusIndex
from trainers.recipes.recipe import Run

VALIDATION_UTTERANCES = 32


class UnlabeledTask:
    """The part of a task that needs no model. A subclass calls `divide` before anything else."""

    train: CorpusIndex

    def __init__(self, run: Run, corpus: CorpusIndex) -> None:
        self._encoder, self._data, self._engine = run.encoder, run.data, run.engine
        self._corpus, self._allow_partial_start = corpus, run.allow_partial_start

    def divide(self, everything: CorpusIndex, held_out: NDArray[np.bool_]) -> None:
        """Train on `everything` [N] but for what is `held_out` [N]."""
        self._train_rows, self._held_out_rows = np.flatnonzero(~held_out), np.flatnonzero(held_out)
        self.train = everything.take(self._train_rows)
        self._held_out = everything.take(self._held_out_rows)

    @property
    def identity(self) -> str:
        """The text that tells whether a position in a stream of batches belongs to this task."""
        engine, view = self._engine, self._data.utterances
        parts = (self.train.digest, view, *self.stream_options, engine.seed)
        return " ".join(map(str, (*parts, engine.batches_per_step)))

    @property
    def stream_options(self) -> Sequence[object]:
        """The recipe's own options that change the stream of batches."""
        return ()

    @property
    def corpus_digest(self) -> str:
        """The digest of the whole corpus."""
        return self._corpus.digest

    @property
    def num_workers(self) -> int:
        """The number of processes that decode training batches."""
        return self._data.num_workers

    def keys(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the keys of the training utterances `rows`."""
        return self.train.keys(rows)

    def validation_batches(self) -> list[PlannedBatch]:
        """Batch the held-out utterances, one speaker at a time."""
        return evaluation_batches(self._held_out.rows_by_speaker(), VALIDATION_UTTERANCES)
