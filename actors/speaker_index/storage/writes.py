"""What changes the speaker index: upserts and deletions, as requests bring them and as the journal
keeps them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from actors.speaker_index.search.generation import Generation
from actors.speaker_index.wire import Layout, check_fingerprint, speakers_to_table
from protos import speaker_index_pb2 as messages
from shards.speakers.table import SpeakerTable, concatenate

_UPSERT, _DELETION = b"U", b"D"


class Write(Protocol):
    """One atomic change: some speakers leave, and some come or come back."""

    @property
    def leaving(self) -> Sequence[str]:
        """Who is not there any more, or not as before; those who are not there are no error."""

    @property
    def coming(self) -> SpeakerTable | None:
        """Who is there afterwards."""

    def encode(self) -> bytes:
        """For the journal; `decode_write` reads it."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """Speakers to add, or to put in place of those of the same name."""

    table: SpeakerTable
    request: messages.UpsertRequest

    @property
    def leaving(self) -> Sequence[str]:
        """Those who are replaced."""
        return self.table.speakers

    @property
    def coming(self) -> SpeakerTable | None:
        """The speakers of the request."""
        return self.table

    def encode(self) -> bytes:
        """The request's own bytes."""
        return _UPSERT + self.request.SerializeToString()


@dataclass(frozen=True, slots=True)
class Deletion:
    """Speakers to remove; unknown ones are no error."""

    speakers: tuple[str, ...]

    @property
    def leaving(self) -> Sequence[str]:
        """The speakers of the request."""
        return self.speakers

    @property
    def coming(self) -> SpeakerTable | None:
        """Nobody."""
        return None

    def encode(self) -> bytes:
        """As a request."""
        return _DELETION + messages.DeleteRequest(ids=self.speakers).SerializeToString()


def apply_writes(generation: Generation, writes: Sequence[Write]) -> tuple[Generation, list[int]]:
    """The generation after all of `writes`, in order, and how many of those leaving were there, for
    each.

    Done at once: one after the other, a thousand small writes would copy what is recent a thousand
    times.
    """
    tables = [table for write in writes if (table := write.coming) is not None]
    firsts = iter(np.cumsum([0, *(len(table) for table in tables)]).tolist())
    there: dict[str, int | None] = {}  # row of all that comes, None for those who have left
    counts = []
    for write in writes:
        known = [
            there[name] is not None if name in there else generation.find(name) is not None
            for name in write.leaving
        ]
        counts.append(sum(known))
        there |= dict.fromkeys(write.leaving)
        if write.coming is not None:
            there |= {
                name: row for row, name in enumerate(write.coming.speakers, start=next(firsts))
            }
    nobody = generation.recent.table.take(np.empty(0, dtype=np.int64))
    rows = np.asarray([row for row in there.values() if row is not None], dtype=np.int64)
    added = concatenate([nobody, *tables]).take(rows)
    return generation.changed(generation.number + len(writes), there, added), counts


def decode_write(payload: bytes, layout: Layout) -> Write:
    """What `encode` made; its checksum has been verified. Raises RequestError for another encoder's
    vectors.
    """
    kind, body = payload[:1], payload[1:]
    if kind == _DELETION:
        return Deletion(tuple(messages.DeleteRequest.FromString(body).ids))
    request = messages.UpsertRequest.FromString(body)
    check_fingerprint(request.encoder_fingerprint, layout)
    return Upsert(speakers_to_table(request.speakers, layout), request)
