"""The sound of a shard's utterances on the disk of this machine, for as long as it is needed.

A personalized recognizer hears the utterances of a speaker in sets, and a reader gives them in the
order of the tar. To keep a shard's sound in memory would take a gigabyte; to ask the reader again
would decode everything twice.
"""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

import numpy as np

from actors.inference.outcomes import Missing
from actors.predicting.answering import Heard
from actors.predicting.recordings import Recording
from shards.media.sound_format import Waveform


class SpooledSounds:
    """Recordings whose sound lies in a file that is open for reading and writing."""

    def __init__(self, file: IO[bytes]) -> None:
        self.recordings: list[Recording] = []
        self._file = file
        self._places: list[tuple[int, int]] = []  # of each recording: first byte, samples

    def add(self, recording: Recording, sound: Waveform | None) -> None:
        """Keep the sound of the next recording; it has none when the recording has an `error`."""
        payload = b"" if sound is None else sound.astype(np.float32, copy=False).tobytes()
        begin = self._file.seek(0, 2)
        self._file.write(payload)

        self.recordings.append(recording)
        self._places.append((begin, len(payload) // 4))

    def heard(self, places: Sequence[int]) -> Iterator[Heard]:
        """The recordings at `places`, read one after another."""
        for place in places:
            yield Heard(place, self.recordings[place], self._read(place))

    def _read(self, place: int) -> Waveform | Missing:
        begin, num_samples = self._places[place]
        if not num_samples:
            return Missing("no_audio: the recording has no sound")

        self._file.seek(begin)
        return np.frombuffer(self._file.read(4 * num_samples), dtype=np.float32).copy()


@contextmanager
def spooled_sounds() -> Iterator[SpooledSounds]:
    """No recordings yet, and a temporary file for their sound; it goes when the block ends."""
    with tempfile.TemporaryFile(prefix="emostream-") as file:
        yield SpooledSounds(file)
