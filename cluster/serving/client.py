"""A Python client of the speaker index: `SpeakerClient`.

It needs grpc, protobuf and numpy, and neither torch nor Ray.

Every call has a deadline. Calls that read are repeated a few times, after longer and longer waits,
when the server says that it is not there at the moment (UNAVAILABLE), and for no other reason.
Calls that write are not repeated: the first call may have been made although no answer came. The
second call would undo what another client has written since, or would count nobody as deleted. Any
other problem is a SpeakerIndexError with the name of the status.

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
# Attempts of one call, the first included: as many as gRPC allows. The waits between the attempts
# are about 0.3, 0.9, 2.7 and 5 seconds.
MAX_ATTEMPTS = 5
MODES = {
    "mu": messages.CALIBRATION_MODE_MU,
    "sigma": messages.CALIBRATION_MODE_SIGMA,
    "both": messages.CALIBRATION_MODE_BOTH,
}
Mode = Literal["mu", "sigma", "both"]


class SpeakerIndexError(RuntimeError):
    """The server refused a call, or did not answer; `code` is the name of a gRPC status."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code, self.detail = code, detail


@dataclass(frozen=True, slots=True)
class LabelStatistics:
    """Mean, population standard deviation and number of a speaker's labels of one dimension."""

    mean: float
    standard_deviation: float
    count: int


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A speaker of the index, its similarity (cosine), and its label statistics by dimension.

    The name is spelled as on the wire.
    """

    id: str
    similarity: float
    labels: Mapping[str, LabelStatistics]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The most alike speakers of each vector, the most alike first; all of one generation."""

    generation: int
    neighbours: Sequence[Sequence[Neighbour]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibrated predictions by label dimension, and the speakers they were calibrated with."""

    generation: int
    predictions: Mapping[str, NDArray[np.float32]]
    neighbours: Sequence[Neighbour]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speaker:
    """A speaker to write, or a speaker as it is stored."""

    id: str
    vector: NDArray[np.float32]
    num_utterances: int = 0
    labels: Mapping[str, LabelStatistics] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What an index holds and what it allows, as the method `Describe` of the service says."""

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
    """A connection to one server; several threads may use it.

    `fingerprint` is that of the encoder that made your vectors, and may be set later. The server
    refuses vectors of another encoder. `ca`, `cert` and `key` are PEM files: with `ca` the
    connection is encrypted, `cert` and `key` are for mutual TLS. `token` is sent with every call.
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
        """What the index holds and what it allows."""
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
        """The k most alike speakers of each of `vectors` [P, D], or of one vector [D]."""
        request = self._search_request(vectors, k, exclude, metadata_equals)
        return _result(self._call(self._stub.Search, request))

    def stream_search(
        self, batches: Iterable[ArrayLike], k: int, *, seconds: float = 3600.0
    ) -> Iterator[SearchResult]:
        """The results of `search` for many batches [P, D] over one stream, in order.

        The stream is not repeated once an answer has come.
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
        """Calibrate one speaker's predictions of each label dimension.

        The predictions get the mean (`mode` "mu"), the spread ("sigma"), or both of the k most
        alike speakers. The speaker is a `vector` [D], or `speaker_id`, a speaker of the index.
        """
        if (vector is None) == (speaker_id is None):
            raise ValueError(
                "calibrate: give either a vector or a speaker_id, and not both or neither of them"
            )

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
        """Add speakers, or replace those of the same name; returns the generation that has them.

        Returns when the write would survive a power loss. Raises SpeakerIndexError. After
        UNAVAILABLE or DEADLINE_EXCEEDED the write may or may not have been made.
        """
        request = messages.UpsertRequest(
            encoder_fingerprint=self.fingerprint,
            speakers=[_speaker_message(speaker) for speaker in speakers],
        )

        return int(self._call(self._stub.Upsert, request).generation)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove speakers; returns how many of them were there. Raises as `upsert` does."""
        return int(self._call(self._stub.Delete, messages.DeleteRequest(ids=ids)).num_deleted)

    def get(self, speaker_id: str) -> Speaker:
        """A speaker as it is stored. Raises SpeakerIndexError (NOT_FOUND) for an unknown name."""
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

    # gRPC itself repeats calls, and only those of the methods named here.
    config = {
        "methodConfig": [
            {
                "name": [{"service": SERVICE, "method": name} for name in REPEATED],
                "retryPolicy": retry,
            }
        ]
    }

    # gRPC's own limit of 4 MiB would refuse large answers, which the server's limits allow.
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
        raise ValueError(
            f"vectors: got an array of {rows.ndim} dimensions, expected 2 [P, D] or 1 [D]"
        )
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
