"""Rows that are parts of long recordings: columns `start` and `end`, in seconds, cut the sound.

A recording is decoded once, into a FLAC file that has no name, and the parts are taken from there
to the sample. Jumping into the recording itself lost: in mp3 and AAC nobody knows which sample
comes after a jump. A few recordings stay open for each thread, as the rows of one mostly follow
each other.
"""

import io
import math
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import soundfile

from shards.errors import BadSample
from shards.media.audio import MIN_SECONDS
from shards.media.conversion import write_flac
from shards.samples.keys import printable

START_COLUMN, END_COLUMN = "start", "end"

MAX_RECORDING_BYTES = 4 << 30
MAX_RECORDING_SECONDS = 24 * 3600.0
_NUM_OPEN = 4
# Tables round their times, and so the end of a recording.
_END_TOLERANCE_SECONDS = 0.1
# 16-bit FLAC of one channel at 44.1 kHz has about this much.
_FLAC_BYTES_PER_SECOND = 50_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A part of a recording, in seconds; an `end` of None is that of the recording."""

    start: float
    end: float | None

    @property
    def expected_size(self) -> int | None:
        """About how many bytes the part will have as FLAC; None where that is not known."""
        return None if self.end is None else round((self.end - self.start) * _FLAC_BYTES_PER_SECOND)


def cut_of(row: Mapping[str, Any]) -> Cut | None:
    """The part of its recording that a row of a table asks for; None for all of it.

    Raises BadSample(`bad_cut`) for a start or an end that is not a number of seconds.
    """
    start, end = (_seconds(name, row.get(name)) for name in (START_COLUMN, END_COLUMN))
    if start is None and end is None:
        return None

    cut = Cut(start or 0.0, end)
    if cut.end is not None and cut.end <= cut.start:
        raise BadSample(
            "bad_cut",
            f"start is {cut.start:g} s and end is {cut.end:g} s, expected a start before the end",
        )
    return cut


def _seconds(name: str, cell: object) -> float | None:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return None
    if isinstance(cell, str) and not cell.strip():
        return None

    try:
        seconds = float(cell)  # type: ignore[arg-type]  # whatever it is, it is a number or refused
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(cell, bool) or not (math.isfinite(seconds) and seconds >= 0):
        raise BadSample(
            "bad_cut",
            f"{name} is '{printable(str(cell), 80)}', expected seconds from the start of the "
            "recording, such as 12.5",
        )
    return seconds


class Recordings:
    """Recordings that were decoded, a few for each thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def part(
        self,
        identity: Hashable,
        read: Callable[[], bytes],
        cut: Cut,
        *,
        track_number: int | None = None,
    ) -> bytes:
        """The part `cut` of a recording, as FLAC at the recording's sampling rate.

        `identity` tells recordings apart, and `read` gives the bytes of this one, if it must be
        decoded. Raises BadSample: `bad_cut` where the recording ends before the part, and what
        reading and decoding the recording raise.
        """
        recording = self._opened((identity, track_number), read, track_number)
        first, last = _bounds(recording, cut)

        recording.seek(first)
        samples = recording.read(last - first, dtype="int16")
        target = io.BytesIO()
        soundfile.write(target, samples, recording.samplerate, format="FLAC", subtype="PCM_16")

        return target.getvalue()

    def _opened(
        self, identity: Hashable, read: Callable[[], bytes], track_number: int | None
    ) -> soundfile.SoundFile:
        """The recording as FLAC; one that cannot be used is not decoded again for every row."""
        kept: OrderedDict[Hashable, soundfile.SoundFile | BadSample]
        kept = self._local.__dict__.setdefault("kept", OrderedDict())

        if identity not in kept:
            try:
                kept[identity] = _decoded(read(), track_number)
            except BadSample as bad:
                kept[identity] = bad
            if len(kept) > _NUM_OPEN:
                kept.popitem(last=False)
        kept.move_to_end(identity)

        found = kept[identity]
        if isinstance(found, BadSample):
            raise BadSample(found.code, found.detail)
        return found


def _decoded(data: bytes, track_number: int | None) -> soundfile.SoundFile:
    # The file has no name, so that nothing is left of it when the process ends. It stays open as
    # long as the recording is kept.
    target = tempfile.TemporaryFile()  # noqa: SIM115
    write_flac(data, target, max_seconds=MAX_RECORDING_SECONDS, track_number=track_number)
    target.seek(0)

    return soundfile.SoundFile(target)


def _bounds(recording: soundfile.SoundFile, cut: Cut) -> tuple[int, int]:
    """The samples of `recording` that `cut` begins with and ends before."""
    rate_hz = recording.samplerate
    seconds = recording.frames / rate_hz
    end = seconds if cut.end is None else cut.end
    if end > seconds + _END_TOLERANCE_SECONDS or cut.start >= seconds:
        raise BadSample(
            "bad_cut",
            f"the part from {cut.start:g} to {end:g} s lies behind the end of the recording, "
            f"which lasts {seconds:.3f} s; if the files are cut already, rename the columns "
            f"{START_COLUMN} and {END_COLUMN}",
        )

    first, last = round(cut.start * rate_hz), min(round(end * rate_hz), recording.frames)
    if last - first < MIN_SECONDS * rate_hz:
        raise BadSample(
            "audio_too_short",
            f"the part from {cut.start:g} to {end:g} s is shorter than {MIN_SECONDS} s",
        )

    return first, last
