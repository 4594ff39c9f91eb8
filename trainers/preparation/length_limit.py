"""The greatest length of an utterance in training: what is cut, and what is left out.

The limit holds for the utterances that are learned from and validated on. A batch is planned with
the lengths that utterances are cut to. `evaluate` measures whole utterances.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.crop import Crop
from shards.loading.index import CorpusIndex
from shards.storage.documents import write_json
from trainers.settings.data import DataConfig

LEFT_OUT_NAME = "left_out.json"
_MAX_NAMED = 8
log = logging.getLogger(__name__)


class LengthLimit:
    """What `data.max_seconds` means for a task; without it, nothing changes.

    `seed` draws where utterances are cut in training.
    """

    def __init__(self, data: DataConfig, *, seed: int) -> None:
        self._max_seconds, self._leaves_out = data.max_seconds, data.longer == "leave_out"
        # Sound tells its length when it is decoded; face features do not.
        self._needs_lengths = self._leaves_out or data.modality == "face"
        self._seed = seed
        self._left_out: list[dict[str, object]] = []

    @property
    def training_crop(self) -> Crop | None:
        """How utterances are cut in training: at a random place."""
        return self._crop(self._seed)

    @property
    def validation_crop(self) -> Crop | None:
        """How utterances are cut in validation: behind their beginning."""
        return self._crop(None)

    @property
    def max_cropped_seconds(self) -> float:
        """The length that utterances are cut to; infinity where none is cut."""
        crop = self._crop(None)
        return float("inf") if crop is None else crop.max_seconds

    def seconds(self, index: CorpusIndex) -> NDArray[np.float64]:
        """How long each utterance [N] is in a batch."""
        return np.minimum(index.durations, self.max_cropped_seconds)

    def within(self, index: CorpusIndex, split: str) -> CorpusIndex:
        """The utterances of `index`, the split `split`, that training may use.

        Says which are left out. Raises ConfigError when none is left, or when the length of one is
        not known.
        """
        if self._max_seconds is None:
            return index

        seconds = index.durations
        if self._needs_lengths and not (seconds > 0).all():
            raise ConfigError(
                "data.max_seconds: some json gives no `duration_seconds` above 0, by which it is "
                "known what is too long; give the table this column and import it again"
            )
        if not self._leaves_out:
            return index

        kept = seconds <= self._max_seconds
        if not kept.any():
            raise ConfigError(
                f"data.max_seconds: got {self._max_seconds:g} and data.longer leave_out, but every "
                f"utterance of the split {split} is longer, the shortest {seconds.min():.1f} s; "
                "raise it, or set data.longer=crop"
            )

        self._note(index, np.flatnonzero(~kept), split)
        return index.take(np.flatnonzero(kept))

    def write(self, out: Path) -> None:
        """List all utterances that are left out in a file of the run's folder, if there are any."""
        if self._left_out:
            write_json(str(out / LEFT_OUT_NAME), self._left_out)

    def _crop(self, seed: int | None) -> Crop | None:
        if self._max_seconds is None or self._leaves_out:
            return None
        return Crop(max_seconds=self._max_seconds, seed=seed)

    def _note(self, index: CorpusIndex, rows: NDArray[np.int64], split: str) -> None:
        if not len(rows):
            return

        keys, seconds = index.keys(rows), index.durations[rows].tolist()
        named = [f"{key} ({long:.1f} s)" for key, long in zip(keys, seconds, strict=True)]
        more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
        log.warning(
            "%d of %d utterances of the split %s are longer than data.max_seconds %g and left out: "
            "%s%s; all are in %s",
            len(rows),
            len(index),
            split,
            self._max_seconds,
            ", ".join(named[:_MAX_NAMED]),
            more,
            LEFT_OUT_NAME,
        )

        self._left_out += [
            {"key": key, "split": split, "duration_seconds": long, "reason": "too_long"}
            for key, long in zip(keys, seconds, strict=True)
        ]
