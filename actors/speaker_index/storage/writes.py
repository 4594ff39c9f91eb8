"""Writes to the speaker index: upserts and deletions, from requests and from the journal."""

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
    """One atomic change: some speakers leave the index, and others come into it."""

    @property
    def leaving(self) -> Sequence[str]:
        """Names of the speakers that are removed or replaced; unknown names are no error."""

    @property
    def coming(self) -> SpeakerTable | None:
        """The speakers that come into the index; None when there are none."""

    def encode(self) -> bytes:
        """The bytes for the journal, which `decode_write` reads."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """Speakers to add; each replaces a speaker of the same name."""

    table: SpeakerTable
    request: messages.UpsertRequest

    @property
    def leaving(self) -> Sequence[str]:
        """The names of the request: whoever has such a name is replaced."""
        return self.table.speakers

    @property
    def coming(self) -> SpeakerTable | None:
        """The speakers of the request."""
        return self.table

    def encode(self) -> bytes:
        """A letter for the kind, and the bytes of the request."""
        return _UPSERT + self.request.SerializeToString()


@dataclass(frozen=True, slots=True)
class Deletion:
    """Speakers to remove; unknown names are no error."""

    speakers: tuple[str, ...]

    @property
    def leaving(self) -> Sequence[str]:
        """The names of the request."""
        return self.speakers

    @property
    def coming(self) -> SpeakerTable | None:
        """None: nobody comes."""
        return None

    def encode(self) -> bytes:
        """A letter for the kind, and the bytes of a request."""
        return _DELETION + messages.DeleteRequest(ids=self.speakers).SerializeToString()


def apply_writes(generation: Generation, writes: Sequence[Write]) -> tuple[Generation, list[int]]:
    """The generation after all of `writes`, in order.

    The second result counts, for each write, how many of the speakers that it removes or replaces
    were in the index before it. The writes are applied together: a thousand small writes that are
    applied one after the other would copy the recent part a thousand times.
    """
    # The tables of the writes, one behind the other, make one table of all speakers that come.
    # `firsts` gives the row of it at which each write's table begins.
    tables = [table for write in writes if (table := write.coming) is not None]
    firsts = iter(np.cumsum([0, *(len(table) for table in tables)]).tolist())

    # The speakers that the writes have touched so far: for each name the row in that table, or None
    # for a speaker that has left. A name that is missing here is as it was in `generation`.
    there: dict[str, int | None] = {}

    counts = []
    for write in writes:
        known = [
            there[name] is not None if name in there else generation.find(name) is not None
            for name in write.leaving
        ]
        counts.append(sum(known))

        # Leave first, then come: an upsert names each of its speakers in both.
        there |= dict.fromkeys(write.leaving)
        if write.coming is not None:
            there |= {
                name: row for row, name in enumerate(write.coming.speakers, start=next(firsts))
            }

    # Only the last row of each name comes into the generation. `nobody` has no rows, and lets
    # `concatenate` work when no write brings a table.
    nobody = generation.recent.table.take(np.empty(0, dtype=np.int64))
    rows = np.asarray([row for row in there.values() if row is not None], dtype=np.int64)
    added = concatenate([nobody, *tables]).take(rows)

    return generation.changed(generation.number + len(writes), there, added), counts


def decode_write(payload: bytes, layout: Layout) -> Write:
    """The write that `encode` made the payload from; the journal has verified its checksum.

    Raises RequestError for vectors of another encoder.
    """
    kind, body = payload[:1], payload[1:]
    if kind == _DELETION:
        return Deletion(tuple(messages.DeleteRequest.FromString(body).ids))

    request = messages.UpsertRequest.FromString(body)
    # The width alone does not tell encoders apart: the journal may be another index's.
    check_fingerprint(request.encoder_fingerprint, layout)
    return Upsert(speakers_to_table(request.speakers, layout), request)
