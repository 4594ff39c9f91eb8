"""Converts between the messages of `protos/speaker_index.proto` and arrays.

Everything that a client sends is checked here.

Responses to searches are put together from bytes: a message object for every neighbor of every
query would cost more than finding the neighbors. What is the same each time a speaker is found, its
name and labels, is encoded once by protobuf itself and kept. Behind it comes a field of four bytes
with the similarity. A test parses the result with protobuf and compares.

Shapes: P vectors, D numbers a vector, V label dimensions, k neighbors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.errors import RequestError, WrongEncoderError
from actors.speaker_index.search.generation import Generation, Neighbors
from protos import speaker_index_pb2 as messages
from shards.samples.keys import printable, speaker_problem
from shards.speakers.table import SpeakerTable, metadata_problem

# Tags of the fields that are put together here: (number << 3 | wire type). The wire type is 2 for
# bytes and messages, 5 for a float, and 0 for a varint. For example, 0x12 is field 2, a message.
_VECTOR_VALUES, _NEIGHBOR, _SIMILARITY, _GENERATION, _RESULT = (
    b"\x0a",
    b"\x0a",
    b"\x15",
    b"\x08",
    b"\x12",
)
# The tag of the similarity, and its four bytes.
_SIMILARITY_BYTES = 5


@dataclass(frozen=True, slots=True)
class Layout:
    """What all speakers of an index share: vectors of one width, label dimensions, an encoder."""

    width: int
    dimensions: tuple[str, ...]
    encoder: str
    fingerprint: str

    @classmethod
    def of(cls, table: SpeakerTable) -> "Layout":
        """The layout of a table's speakers."""
        return cls(table.vectors.shape[1], table.dimensions, table.encoder, table.fingerprint)


def check_fingerprint(fingerprint: str, layout: Layout) -> None:
    """Raise RequestError for vectors of another encoder, or of an encoder that is not named."""
    if not fingerprint:
        raise RequestError(
            "encoder_fingerprint: got none, expected that of the encoder that made the vectors; "
            "Describe returns the index's fingerprint, and both must be the same"
        )

    if fingerprint != layout.fingerprint:
        raise WrongEncoderError(
            f"encoder_fingerprint: got '{printable(fingerprint, 80)}', but the index holds vectors "
            f"of {layout.encoder} ('{layout.fingerprint}'); make the vectors with that encoder"
        )


def pack_vectors(vectors: Sequence[messages.Vector], width: int) -> bytes:
    """P x D little-endian float32. Raises RequestError for a vector that is not of D numbers."""
    prefix = _VECTOR_VALUES + _varint(4 * width)
    # A message with one packed field consists of that field's tag, length and numbers. So the
    # numbers can be cut out of the bytes: reading them one by one takes six times as long.
    parts = [vector.SerializeToString() for vector in vectors]

    length, start = len(prefix) + 4 * width, len(prefix)
    for place, part in enumerate(parts):
        if len(part) != length or not part.startswith(prefix):
            raise RequestError(
                f"vector {place}: got {len(vectors[place].values)} numbers, expected {width}"
            )

    return b"".join([part[start:] for part in parts])


def unpack_vectors(packed: bytes, width: int) -> NDArray[np.float32]:
    """The vectors [P, D] that `pack_vectors` packed."""
    return np.frombuffer(packed, dtype="<f4").reshape(-1, width)


def have_direction(vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which vectors of [P, D] can be compared: those that are finite and not zero."""
    usable: NDArray[np.bool_] = np.logical_and(
        np.isfinite(vectors).all(axis=1), vectors.any(axis=1)
    )
    return usable


def no_direction(place: int) -> RequestError:
    """The error for the vector at `place` of a request, which `have_direction` refuses."""
    return RequestError(
        f"vector {place}: is zero or has a number that is not finite; expected finite numbers, not "
        "all of them 0"
    )


def speakers_to_table(speakers: Sequence[messages.Speaker], layout: Layout) -> SpeakerTable:
    """The table of an upsert's speakers.

    Raises RequestError for a speaker that no index can hold, or that is in the request twice.
    """
    names = [speaker.id for speaker in speakers]
    for name in names:
        if problem := speaker_problem(name):
            raise RequestError(f"id: {problem}")

    if len(set(names)) != len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise RequestError(
            f"id: '{printable(twice, 80)}' is in the request twice; send each speaker once"
        )

    for speaker in speakers:
        if problem := metadata_problem(speaker.metadata):
            raise RequestError(f"speaker '{printable(speaker.id, 80)}': {problem}")

    shape = (len(speakers), len(layout.dimensions))
    mean, std, count = (
        np.full(shape, np.nan),
        np.full(shape, np.nan),
        np.zeros(shape, dtype=np.int64),
    )
    for row, speaker in enumerate(speakers):
        for place, label in _labels(speaker, layout):
            mean[row, place], std[row, place], count[row, place] = (
                label.mean,
                label.standard_deviation,
                label.count,
            )

    vectors = unpack_vectors(
        pack_vectors([speaker.vector for speaker in speakers], layout.width), layout.width
    )
    usable = have_direction(vectors)
    if not usable.all():
        raise no_direction(int(np.argmin(usable)))

    return SpeakerTable(
        speakers=names,
        vectors=vectors,
        num_utterances=np.asarray([speaker.num_utterances for speaker in speakers], dtype=np.int64),
        dimensions=layout.dimensions,
        label_mean=mean,
        label_std=std,
        label_count=count,
        metadata=[dict(speaker.metadata) for speaker in speakers],
        encoder=layout.encoder,
        fingerprint=layout.fingerprint,
    )


def speaker_to_message(table: SpeakerTable, row: int) -> messages.Speaker:
    """A message with everything that is known of the speaker at `row`."""
    return messages.Speaker(
        id=table.speakers[row],
        vector=messages.Vector(values=table.vectors[row].tolist()),
        num_utterances=int(table.num_utterances[row]),
        labels=_label_messages(table, row),
        metadata=table.metadata[row],
    )


def encode_search(generation: Generation, found: Neighbors) -> bytes:
    """An encoded SearchResponse with the neighbors of each query, in the order of the queries."""
    parts = [_GENERATION, _varint(generation.number)]

    for numbers, similarities in zip(found[0].tolist(), found[1], strict=True):
        body = _encode_neighbors(generation, numbers, similarities)
        parts += (_RESULT, _varint(len(body)), body)

    return b"".join(parts)


def neighbor_messages(generation: Generation, found: Neighbors) -> list[messages.Neighbour]:
    """The neighbors of a single query, as messages."""
    (numbers,), (similarities,) = found
    body = _encode_neighbors(generation, numbers.tolist(), similarities)
    return list(messages.Neighbours.FromString(body).neighbours)


def _encode_neighbors(
    generation: Generation, numbers: list[int], similarities: NDArray[np.float32]
) -> bytes:
    """An encoded `messages.Neighbours`; the neighbors end at the first -1."""
    packed = similarities.astype("<f4").tobytes()
    split, parts = len(generation.base.table), list[bytes]()

    for place, number in enumerate(numbers):
        if number < 0:
            break
        part, row = (
            (generation.base, number) if number < split else (generation.recent, number - split)
        )
        # `encoded` is shared by all threads that answer searches. Two threads may encode the same
        # row at once: both store the same bytes, so no lock is needed.
        beginning = part.encoded.get(row)
        if beginning is None:
            beginning = part.encoded[row] = _encode_beginning(part.table, row)
        parts += (beginning, packed[4 * place : 4 * place + 4])

    return b"".join(parts)


def _encode_beginning(table: SpeakerTable, row: int) -> bytes:
    """A field of `messages.Neighbours`, encoded up to the four bytes of its similarity."""
    known = messages.Neighbour(
        id=table.speakers[row], labels=_label_messages(table, row)
    ).SerializeToString()
    # The length counts the similarity too, although its four bytes are appended later.
    return _NEIGHBOR + _varint(len(known) + _SIMILARITY_BYTES) + known + _SIMILARITY


def _label_messages(table: SpeakerTable, row: int) -> list[messages.LabelStatistics]:
    return [
        messages.LabelStatistics(
            dimension=name,
            mean=table.label_mean[row, place],
            standard_deviation=table.label_std[row, place],
            count=int(table.label_count[row, place]),
        )
        for place, name in enumerate(table.dimensions)
        if table.label_count[row, place]
    ]


def _labels(
    speaker: messages.Speaker, layout: Layout
) -> Iterable[tuple[int, messages.LabelStatistics]]:
    """A speaker's label statistics, checked, each with the place of its dimension in `layout`."""
    where = f"speaker '{printable(speaker.id, 80)}'"
    seen = set()

    for label in speaker.labels:
        if label.dimension not in layout.dimensions or label.dimension in seen:
            known = ", ".join(layout.dimensions) or "none"
            got = printable(label.dimension, 80)
            raise RequestError(
                f"{where}: got label dimension '{got}', expected each of {known}, at most once"
            )

        if not (
            np.isfinite(label.mean)
            and np.isfinite(label.standard_deviation)
            and label.standard_deviation >= 0
        ):
            raise RequestError(
                f"{where}: got mean {label.mean} and standard deviation {label.standard_deviation} "
                f"of {label.dimension}, expected finite numbers, the second of them 0 or more"
            )

        if not label.count:
            raise RequestError(
                f"{where}: got a count of 0 for {label.dimension}, expected at least 1; leave out "
                "dimensions of which the speaker has no labels"
            )

        seen.add(label.dimension)
        yield layout.dimensions.index(label.dimension), label


def _varint(value: int) -> bytes:
    # Seven bits a byte, the lowest first; the highest bit says that another byte follows.
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7

    parts.append(value)
    return bytes(parts)
