"""What all servers of the speaker index share: methods, callers, and statuses for errors.

`METHODS` lists the methods and who may call them, `Admission` decides about each call, and
`refusal` gives the status for what went wrong.
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
# The first entry that fits an error counts. So WrongEncoderError, a kind of RequestError, comes
# first.
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
    """A method of the service.

    `answer` takes a request and the seconds left for it, and returns the encoded response.
    `num_items` counts the vectors, speakers or names of a request.
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
    """Decides who calls, and whether this client may call now."""

    def __init__(self, config: CallersConfig) -> None:
        self._tokens = None if config.tokens is None else Tokens(config.tokens)
        self._rate = RateLimit(config.requests_per_second)

    def admit(self, role: Role, metadata: Iterable[tuple[str, str | bytes]], peer: str) -> Client:
        """The client of a call, or of one more request in a stream; the request is counted.

        Every request of a stream is checked, because a token may be taken back while the stream is
        open. Without a token file, everybody may call every method. Raises errors that `refusal`
        maps to statuses.
        """
        # Without tokens a client is known by its address; the port changes from one connection to
        # the next.
        client = self.known(role, metadata) or Client(peer.rpartition(":")[0], "write")
        self._rate.take(client.name)
        return client

    def known(self, role: Role, metadata: Iterable[tuple[str, str | bytes]]) -> Client | None:
        """The client whose token a call carries, without counting the call.

        None when no token file is used. Raises what `admit` raises about tokens.
        """
        if self._tokens is None:
            return None

        client = self._tokens.client(metadata)
        require_role(client, role)
        return client


def refusal(
    error: Exception, method: str, request_id: str, seconds: float
) -> tuple[grpc.StatusCode, str]:
    """The status and the message for what went wrong.

    The client learns nothing about an unexpected error: the details go to the log only.
    """
    code = next(
        (code for kind, code in STATUSES if isinstance(error, kind)), grpc.StatusCode.INTERNAL
    )

    if code is grpc.StatusCode.INTERNAL:
        log.error("request %s failed", request_id, exc_info=error)
        return code, f"an error inside the server; its log has details under request {request_id}"

    if isinstance(error, TimeoutError):
        return code, (
            f"not answered within {seconds:.1f} s; ask for less at a time, or set a later deadline"
        )
    if isinstance(error, DecodeError):
        return code, f"the request is not a {method} message of {SERVICE}; check the client"
    return code, str(error)
