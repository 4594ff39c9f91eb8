"""What was decoded of a shard's utterances, on this machine's disk while it is needed.

A personalized recognizer hears the utterances of a speaker in sets, and a reader gives them in the
order of the tar. To keep a shard's sound in memory would take a gigabyte, and clips as much; to ask
the reader again would decode everything twice.
"""

import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from actors.inference.outcomes import Missing
from actors.predicting.answering import Heard
from actors.predicting.recordings import Recording


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where an array lies in the file, and how long the utterance lasts."""

    begin: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    seconds: float | None


class SpooledRecordings:
    """Recordings of which what was decoded lies in a file, open for reading and writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.recordings: list[Recording] = []
        self._file = file
        self._places: list[_Place | None] = []

    def add(
        self, recording: Recording, kept: NDArray[Any] | None, seconds: float | None = None
    ) -> None:
        """Keep what was decoded of the next recording; None when the recording has an `error`."""
        self.recordings.append(recording)
        if kept is None:
            self._places.append(None)
            return

        begin = self._file.seek(0, 2)
        self._file.write(kept.tobytes())
        self._places.append(
            _Place(begin=begin, dtype=kept.dtype, shape=kept.shape, seconds=seconds)
        )

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places`, read one after another."""
        for place in places:
            recording, where = self.recordings[place], self._places[place]
            if where is None:
                yield Heard(place, recording, Missing(str(recording.error)))
            else:
                yield Heard(place, recording, self._read(where), where.seconds)

    def _read(self, where: _Place) -> NDArray[Any]:
        self._file.seek(where.begin)
        num_bytes = math.prod(where.shape) * where.dtype.itemsize
        flat = np.frombuffer(self._file.read(num_bytes), dtype=where.dtype)
        return flat.reshape(where.shape).copy()


@contextmanager
def spooled_recordings() -> Iterator[SpooledRecordings]:
    """No recordings yet, and a temporary file for them; it goes when the block ends."""
    with tempfile.TemporaryFile(prefix="emostream-") as file:
        yield SpooledRecordings(file)
