"""A client of the speaker index, for Python: `SpeakerClient`. Needs grpc, protobuf and numpy;
neither torch nor Ray.

Every call has a deadline. Calls that read are repeated, a few times and ever later, when the server
says that it is not there at the moment (UNAVAILABLE), and for no other reason. Writes are not: the
first may have been made without an answer, and the second would undo what another client has
written since, or count nobody as deleted. Whatever else goes wrong is a SpeakerIndexError with the
name of the status.

    with SpeakerClient("localhost:50051", fingerprint=my_encoders) as client:
        for neighbor in client.search(vectors, k=5).neighbours[0]:
            print(neighbor.id, neighbor.similarity)
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import grpc
import numpy as np
from numpy.typing import ArrayLike, NDArray

from protos import speaker_index_pb2 as messages
from protos.speaker_index_pb2_grpc import SpeakerIndexStub

SERVICE = messages.DESCRIPTOR.services_by_name["SpeakerIndex"].full_name
REPEATED = ("Search", "StreamSearch", "Calibrate", "Get", "Describe")
MAX_ATTEMPTS = 5  # as many as gRPC allows: waits of about 0.3, 0.9, 2.7 and 5 s
MODES = {
    "mu": messages.CALIBRATION_MODE_MU,
    "sigma": messages.CALIBRATION_MODE_SIGMA,
    "both": messages.CALIBRATION_MODE_BOTH,
}
Mode = Literal["mu", "sigma", "both"]


class SpeakerIndexError(RuntimeError):
    """The server refused, or did not answer: `code` is the name of a gRPC status."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class LabelStatistics:
    """Of one label dimension of a speaker: mean, population standard deviation, and how many
    labels.
    """

    mean: float
    standard_deviation: float
    count: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A speaker of the index, how alike (cosine), and the statistics of its labels; spelled as on
    the wire.
    """

    id: str
    similarity: float
    labels: Mapping[str, LabelStatistics]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """For each vector its most alike speakers, the most alike first, all of one generation of the
    index.
    """

    generation: int
    neighbours: Sequence[Sequence[Neighbour]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated predictions of each label dimension, and the speakers they were calibrated by."""

    generation: int
    predictions: Mapping[str, NDArray[np.float32]]
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speaker:
    """A speaker to write, or as it is stored."""

    id: str
    vector: NDArray[np.float32]
    num_utterances: int = 0
    labels: Mapping[str, LabelStatistics] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the index is."""

    num_speakers: int
    dimension: int
    encoder: str
    encoder_fingerprint: str
    index_kind: str
    generation: int
    label_dimensions: Sequence[str]
    max_vectors: int
    max_k: int


class SpeakerClient:
    """A connection to one server; safe to use from several threads.

    `fingerprint` is that of the encoder your vectors come from, and may be set later: the server
    refuses vectors of another. With `ca` (and `cert` and `key` for mutual TLS), PEM files, the
    connection is encrypted; `token` is sent with every call.
    """

    def __init__(
        self,
        target: str,
        *,
        fingerprint: str = "",
        token: str | None = None,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
        timeout_seconds: float = 5.0,
    ) -> None:
        self.fingerprint, self._timeout_seconds = fingerprint, timeout_seconds
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._channel = _channel(target, ca, cert, key)
        self._stub: Any = SpeakerIndexStub(self._channel)  # type: ignore[no-untyped-call]  # generated

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def describe(self) -> Description:
        """What the index is."""
        answer = self._call(self._stub.Describe, messages.DescribeRequest())
        names = [item.name for item in messages.DescribeResponse.DESCRIPTOR.fields]
        values = {name: getattr(answer, name) for name in names}
        return Description(**(values | {"label_dimensions": list(answer.label_dimensions)}))

    def search(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        exclude: Sequence[str] = (),
        metadata_equals: Mapping[str, str] | None = None,
    ) -> SearchResult:
        """The k most alike speakers of each of `vectors` [P, D], or of one [D]."""
        request = self._search_request(vectors, k, exclude, metadata_equals)
        return _result(self._call(self._stub.Search, request))

    def stream_search(
        self, batches: Iterable[ArrayLike], k: int, *, seconds: float = 3600.0
    ) -> Iterator[SearchResult]:
        """The same for many batches [P, D] over one stream, in order; not repeated once answers
        have come.
        """
        requests = (self._search_request(batch, k, (), None) for batch in batches)
        with _named_errors():
            for answer in self._stub.StreamSearch(
                requests, timeout=seconds, metadata=self._metadata
            ):
                yield _result(answer)

    def calibrate(
        self,
        predictions: Mapping[str, ArrayLike],
        *,
        vector: ArrayLike | None = None,
        speaker_id: str | None = None,
        k: int = 5,
        mode: Mode = "both",
        exclude: Sequence[str] = (),
    ) -> Calibration:
        """One speaker's predictions of each label dimension, given the mean, the spread or both of
        alike speakers.

        The speaker is a `vector` [D] or in the index as `speaker_id`.
        """
        if (vector is None) == (speaker_id is None):
            raise ValueError("calibrate: give either a vector or a speaker_id")
        request = messages.CalibrateRequest(
            encoder_fingerprint=self.fingerprint,
            k=k,
            mode=MODES[mode],
            predictions=[
                messages.Predictions(
                    dimension=name, values=np.asarray(values, dtype=np.float32).tolist()
                )
                for name, values in predictions.items()
            ],
            exclude_ids=exclude,
            vector=None if vector is None else _vectors(vector)[0],
            speaker_id=speaker_id,
        )
        answer = self._call(self._stub.Calibrate, request)
        return Calibration(
            generation=answer.generation,
            predictions={
                one.dimension: np.asarray(one.values, dtype=np.float32) for one in answer.calibrated
            },
            neighbours=[_neighbor(neighbor) for neighbor in answer.neighbours],
        )

    def upsert(self, speakers: Sequence[Speaker]) -> int:
        """Add or replace; returns the generation that has them, once they would survive a power
        loss.

        Raises SpeakerIndexError; after UNAVAILABLE or DEADLINE_EXCEEDED they may or may not be
        there.
        """
        request = messages.UpsertRequest(
            encoder_fingerprint=self.fingerprint,
            speakers=[_speaker_message(speaker) for speaker in speakers],
        )
        return int(self._call(self._stub.Upsert, request).generation)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove; returns how many were there. Raises as `upsert` does."""
        return int(self._call(self._stub.Delete, messages.DeleteRequest(ids=ids)).num_deleted)

    def get(self, speaker_id: str) -> Speaker:
        """A speaker as it is stored. Raises SpeakerIndexError, NOT_FOUND, for one who is not
        there.
        """
        found = self._call(self._stub.Get, messages.GetRequest(id=speaker_id)).speaker
        return Speaker(
            id=found.id,
            vector=np.asarray(found.vector.values, dtype=np.float32),
            num_utterances=found.num_utterances,
            labels=_labels(found.labels),
            metadata=dict(found.metadata),
        )

    def _search_request(
        self,
        vectors: ArrayLike,
        k: int,
        exclude: Sequence[str],
        metadata_equals: Mapping[str, str] | None,
    ) -> messages.SearchRequest:
        return messages.SearchRequest(
            encoder_fingerprint=self.fingerprint,
            vectors=_vectors(vectors),
            k=k,
            exclude_ids=exclude,
            metadata_equals=dict(metadata_equals or {}),
        )

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        with _named_errors():
            return method(request, timeout=self._timeout_seconds, metadata=self._metadata)


def _channel(target: str, ca: str | None, cert: str | None, key: str | None) -> grpc.Channel:
    retry = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": "0.3s",
        "maxBackoff": "5s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = {
        "methodConfig": [
            {
                "name": [{"service": SERVICE, "method": name} for name in REPEATED],
                "retryPolicy": retry,
            }
        ]
    }
    options = [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.max_receive_message_length", -1),
    ]
    if ca is None and cert is None:
        return grpc.insecure_channel(target, options)
    parts = [None if path is None else Path(path).read_bytes() for path in (ca, key, cert)]
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(*parts), options)


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code, detail = getattr(error, "code", None), getattr(error, "details", None)
        if code is None or detail is None:
            raise
        raise SpeakerIndexError(code().name, detail() or "") from error


def _vectors(vectors: ArrayLike) -> list[messages.Vector]:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float32))
    if rows.ndim != 2:
        raise ValueError(f"vectors: got an array of {rows.ndim} dimensions, expected [P, D] or [D]")
    return [messages.Vector(values=row) for row in rows.tolist()]


def _result(answer: messages.SearchResponse) -> SearchResult:
    return SearchResult(
        answer.generation,
        [[_neighbor(neighbor) for neighbor in one.neighbours] for one in answer.results],
    )


def _neighbor(neighbor: messages.Neighbour) -> Neighbour:
    return Neighbour(neighbor.id, neighbor.similarity, _labels(neighbor.labels))


def _labels(labels: Iterable[messages.LabelStatistics]) -> dict[str, LabelStatistics]:
    return {
        label.dimension: LabelStatistics(label.mean, label.standard_deviation, label.count)
        for label in labels
    }


def _speaker_message(speaker: Speaker) -> messages.Speaker:
    return messages.Speaker(
        id=speaker.id,
        vector=_vectors(speaker.vector)[0],
        num_utterances=speaker.num_utterances,
        labels=[
            messages.LabelStatistics(
                dimension=name,
                mean=label.mean,
                standard_deviation=label.standard_deviation,
                count=label.count,
            )
            for name, label in speaker.labels.items()
        ],
        metadata=dict(speaker.metadata),
    )
