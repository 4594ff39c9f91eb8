"""What all servers of the speaker index share: its methods, who may call them, and the status for
what went wrong.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from actors.speaker_index.errors import (
    NoLabelsError,
    NotAuthenticatedError,
    NotPermittedError,
    OverloadedError,
    ReadOnlyError,
    RequestError,
    TooLargeError,
    UnknownSpeakerError,
    WriterLostError,
    WrongEncoderError,
)
from actors.speaker_index.serving.access import Client, RateLimit, Role, Tokens, require_role
from actors.speaker_index.serving.config import CallersConfig
from actors.speaker_index.serving.service import SpeakerService
from actors.speaker_index.storage.journal import StorageFailedError
from protos import speaker_index_pb2 as messages

log = logging.getLogger(__name__)

SERVICE = messages.DESCRIPTOR.services_by_name["SpeakerIndex"].full_name
STATUSES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (WrongEncoderError, grpc.StatusCode.FAILED_PRECONDITION),
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (DecodeError, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownSpeakerError, grpc.StatusCode.NOT_FOUND),
    (NoLabelsError, grpc.StatusCode.FAILED_PRECONDITION),
    (ReadOnlyError, grpc.StatusCode.FAILED_PRECONDITION),
    (NotAuthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (NotPermittedError, grpc.StatusCode.PERMISSION_DENIED),
    (OverloadedError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooLargeError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (StorageFailedError, grpc.StatusCode.UNAVAILABLE),
    (WriterLostError, grpc.StatusCode.UNAVAILABLE),
    (TimeoutError, grpc.StatusCode.DEADLINE_EXCEEDED),
)


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the service: its messages, who may call it, what answers, and how much is asked
    for.
    """

    request: type[Message]
    response: type[Message]
    role: Role
    answer: Callable[[SpeakerService, Any, float], Awaitable[bytes]]
    num_items: Callable[[Any], int] = lambda _: 1


METHODS: Mapping[str, Method] = {
    "Search": Method(
        messages.SearchRequest,
        messages.SearchResponse,
        "read",
        SpeakerService.search,
        lambda asked: len(asked.vectors),
    ),
    "Calibrate": Method(
        messages.CalibrateRequest, messages.CalibrateResponse, "read", SpeakerService.calibrate
    ),
    "Get": Method(messages.GetRequest, messages.GetResponse, "read", SpeakerService.get),
    "Describe": Method(
        messages.DescribeRequest, messages.DescribeResponse, "read", SpeakerService.describe
    ),
    "Upsert": Method(
        messages.UpsertRequest,
        messages.UpsertResponse,
        "write",
        SpeakerService.upsert,
        lambda asked: len(asked.speakers),
    ),
    "Delete": Method(
        messages.DeleteRequest,
        messages.DeleteResponse,
        "write",
        SpeakerService.delete,
        lambda asked: len(asked.ids),
    ),
}
STREAM, STREAMED = "StreamSearch", "Search"


class Admission:
    """Who asks, and whether they may, now."""

    def __init__(self, config: CallersConfig) -> None:
        self._tokens = None if config.tokens is None else Tokens(config.tokens)
        self._rate = RateLimit(config.requests_per_second)

    def admit(self, role: Role, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Client:
        """The client of a call, or of one more request of a stream: a token may be taken back while
        one is open.

        Raises what `refusal` maps; without tokens everybody may do everything.
        """
        client = self.known(role, metadata) or Client(peer.rpartition(":")[0], "write")
        self._rate.take(client.name)
        return client

    def known(self, role: Role, metadata: Iterable[tuple[str, str | bytes]]) -> Client | None:
        """Whose token a call carries, None without tokens; it is not counted. Raises as `admit`
        does.
        """
        if self._tokens is None:
            return None
        client = self._tokens.client(metadata)
        require_role(client, role)
        return client


def refusal(
    error: Exception, method: str, request_id: str, seconds: float
) -> tuple[grpc.StatusCode, str]:
    """The status and the words for what went wrong; what nobody expected is told to the log
    alone.
    """
    code = next(
        (code for kind, code in STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL
    )
    if code is grpc.StatusCode.INTERNAL:
        log.error("request %s failed", request_id, exc_info=error)
        return code, f"an error of the server, noted there under request {request_id}"
    if isinstance(error, TimeoutError):
        return code, f"not answered within {seconds:.1f} s"
    if isinstance(error, DecodeError):
        return code, f"the request is no {method} message of {SERVICE}"
    return code, str(error)
