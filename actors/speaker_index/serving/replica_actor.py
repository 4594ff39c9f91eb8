"""The speaker index on Ray Serve: one writer, and replicas that follow it, behind a gRPC proxy.

The replicas offer the same service as a server of one process. They read the folder that the writer
writes to, which all nodes must see, and hand writes on to the writer. A write is answered with its
generation. A replica shows the write a fraction of a second later, and every answer says which
generation it is of. Ray Serve's proxy has no TLS: put it behind something that encrypts.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError

from actors.speaker_index.errors import TooLargeError, WriterLostError
from actors.speaker_index.serving.calls import METHODS, STREAM, STREAMED, Admission, refusal
from actors.speaker_index.serving.config import ReplicaConfig
from actors.speaker_index.serving.observing import request_id_of
from actors.speaker_index.serving.service import SpeakerService
from actors.speaker_index.storage.follower import SpeakerFollower
from actors.speaker_index.storage.store import open_store
from shards.config import ConfigError

# A replica may start before the writer has written the first snapshot.
BEGIN_SECONDS = 120.0
# Requests of a replica at once. Those that wait together are searched together.
MAX_ONGOING = 256


class _Refused(Exception):  # noqa: N818 (the status is on the call already; this only ends it)
    """Ends a call with the status that has been set on it."""


class SpeakerWriter:
    """The only process that writes to the folder."""

    def __init__(self, config: ReplicaConfig) -> None:
        self._config = config
        self._index = open_store(config.data, config.speakers, config.index)
        self._service = SpeakerService(self._index, config.limits.of_service, num_threads=1)

    async def write(self, method: str, data: bytes) -> tuple[str, bytes | str]:
        """Make a write: returns ("OK", the encoded answer), or (the name of a status, the reason).

        The answer goes to the replica's process. It holds the name of a status in place of an
        exception, because the replica needs this name for its client.
        """
        started = time.perf_counter()

        try:
            request = METHODS[method].request.FromString(data)
            async with asyncio.timeout(self._config.limits.max_seconds):
                return "OK", await METHODS[method].answer(
                    self._service, request, self._config.limits.max_seconds
                )
        except Exception as error:  # noqa: BLE001 (mapped to a status, which goes to the replica)
            code, detail = refusal(
                error, method, "handed to the writer", time.perf_counter() - started
            )
            return code.name, detail

    def check_health(self) -> None:
        """Raise RuntimeError when no more writes are taken: Serve then starts a new writer."""
        if self._index.failure is not None:
            raise RuntimeError(
                "the index takes no more writes; Serve starts a new writer"
            ) from self._index.failure

    def __del__(self) -> None:
        # Serve deletes the object when it ends a deployment.
        self._index.close()


class SpeakerReplica:
    """Answers reads from the folder that it follows, and hands writes on to the writer.

    The methods have the names of the service's methods, by which Serve finds them.
    """

    def __init__(self, config: ReplicaConfig, writer: Any) -> None:
        self._config, self._writer = config, writer
        self._index = _follow(config)
        self._service = SpeakerService(
            self._index, config.limits.of_service, num_threads=config.threads
        )
        self._admission = Admission(config.callers)

    async def Search(self, request: Any, grpc_context: Any) -> Any:
        """Answer `Search` of the service."""
        return await self._read("Search", request, grpc_context)

    async def Calibrate(self, request: Any, grpc_context: Any) -> Any:
        """Answer `Calibrate` of the service."""
        return await self._read("Calibrate", request, grpc_context)

    async def Get(self, request: Any, grpc_context: Any) -> Any:
        """Answer `Get` of the service."""
        return await self._read("Get", request, grpc_context)

    async def Describe(self, request: Any, grpc_context: Any) -> Any:
        """Answer `Describe` of the service."""
        return await self._read("Describe", request, grpc_context)

    async def Upsert(self, request: Any, grpc_context: Any) -> Any:
        """Hand `Upsert` of the service on to the writer."""
        return await self._hand_on("Upsert", request, grpc_context)

    async def Delete(self, request: Any, grpc_context: Any) -> Any:
        """Hand `Delete` of the service on to the writer."""
        return await self._hand_on("Delete", request, grpc_context)

    async def StreamSearch(
        self, requests: AsyncIterator[Any], grpc_context: Any
    ) -> AsyncIterator[Any]:
        """Answer `StreamSearch` of the service, one request after the other."""
        # The first request was admitted with the stream itself. Later ones are admitted one by one,
        # because a token may be taken back while the stream is open.
        self._admit("read", STREAM, grpc_context)
        first = True

        async for request in requests:
            if not first:
                self._admit("read", STREAM, grpc_context)
            first = False
            yield await self._answer(STREAMED, request, grpc_context)

    def check_health(self) -> None:
        """Raise RuntimeError while the replica cannot follow: Serve then starts a new replica."""
        if self._index.failure is not None:
            raise RuntimeError(
                "the replica cannot follow the writer; Serve starts a new replica"
            ) from self._index.failure

    async def _read(self, method: str, request: Any, grpc_context: Any) -> Any:
        self._admit(METHODS[method].role, method, grpc_context)
        return await self._answer(method, request, grpc_context)

    async def _answer(self, method: str, request: Any, grpc_context: Any) -> Any:
        started = time.perf_counter()

        try:
            self._check_size(request)
            async with asyncio.timeout(self._config.limits.max_seconds):
                data = await METHODS[method].answer(
                    self._service, request, self._config.limits.max_seconds
                )
        except Exception as error:
            raise _refused(error, method, grpc_context, started) from error

        return METHODS[method].response.FromString(data)

    async def _hand_on(self, method: str, request: Any, grpc_context: Any) -> Any:
        self._admit(METHODS[method].role, method, grpc_context)
        started = time.perf_counter()

        try:
            self._check_size(request)
            status, answer = await self._writer.write.remote(method, request.SerializeToString())
        except TooLargeError as error:
            raise _refused(error, method, grpc_context, started) from error
        except (RayActorError, DeploymentUnavailableError, ReplicaUnavailableError) as error:
            lost = WriterLostError(
                "the writer has ended and is started again; the write may or may not be there, so "
                "read before writing again"
            )
            raise _refused(lost, method, grpc_context, started) from error

        if status == "OK":
            return METHODS[method].response.FromString(answer)

        grpc_context.set_code(grpc.StatusCode[status])
        grpc_context.set_details(answer)
        raise _Refused(answer)

    def _check_size(self, request: Any) -> None:
        """Raise TooLargeError for a large message: Serve's proxy takes messages of any size."""
        got, most = request.ByteSize(), self._config.limits.max_message_bytes
        if got > most:
            raise TooLargeError(
                f"got a message of {got} bytes, expected at most {most}; send less at a time"
            )

    def _admit(self, role: Any, method: str, grpc_context: Any) -> None:
        try:
            self._admission.admit(
                role, grpc_context.invocation_metadata() or (), grpc_context.peer()
            )
        except Exception as error:
            raise _refused(error, method, grpc_context, time.perf_counter()) from error


def speaker_application(config: ReplicaConfig, num_replicas: int) -> Any:
    """The Serve application: one writer, and replicas that have a handle of it."""
    writer = serve.deployment(num_replicas=1, max_ongoing_requests=MAX_ONGOING)(SpeakerWriter).bind(
        config
    )
    replica = serve.deployment(num_replicas=num_replicas, max_ongoing_requests=MAX_ONGOING)(
        SpeakerReplica
    )

    return replica.bind(config, writer)


def _follow(config: ReplicaConfig) -> SpeakerFollower:
    """Follow the folder as soon as it holds a snapshot. Raises the last error after two minutes."""
    deadline = time.monotonic() + BEGIN_SECONDS

    while True:
        try:
            return SpeakerFollower(config.data, config.index)
        except (ConfigError, FileNotFoundError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _refused(error: Exception, method: str, grpc_context: Any, started: float) -> _Refused:
    """Set the status of an error on the call; returns the exception that ends the call."""
    request_id = request_id_of(grpc_context.invocation_metadata() or ())
    code, detail = refusal(error, method, request_id, time.perf_counter() - started)

    grpc_context.set_code(code)
    grpc_context.set_details(detail)

    return _Refused(detail)
