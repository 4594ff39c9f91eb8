"""The speaker index over gRPC: connections, who may call, deadlines, statuses, and an orderly end.

Requests arrive as bytes and are parsed here, so that bytes that are no message of ours end with
INVALID_ARGUMENT and not with an internal error. Every call goes through one function, which also
maps exceptions to statuses. Interceptors were left out, because each costs a layer of coroutines
for every call.

Tokens are checked before a request is read: nothing is kept of what a caller without a token sends.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health
from grpc_reflection.v1alpha import reflection

from actors.speaker_index.serving.calls import (
    METHODS,
    SERVICE,
    STREAM,
    STREAMED,
    Admission,
    refusal,
)
from actors.speaker_index.serving.config import ListenConfig, ServerConfig
from actors.speaker_index.serving.observing import Metrics, RequestLog, Served, request_id_of
from actors.speaker_index.serving.service import SpeakerService
from actors.speaker_index.serving.streaming import AnswersAhead
from protos import speaker_index_pb2 as messages
from shards.config import ConfigError

# Requests of one stream that are worked on at once, and the neighbors that their answers may hold.
STREAM_AHEAD = 16
STREAM_AHEAD_NEIGHBORS = 200_000
WATCH_SECONDS = 1.0


class SpeakerServer:
    """A server of the speaker index; call `start`, then `stop`."""

    def __init__(self, service: SpeakerService, config: ServerConfig) -> None:
        self._service, self._config = service, config
        self._admission = Admission(config.callers)
        self._log = RequestLog(config.observing.log_requests)
        self._metrics = Metrics([*METHODS, STREAM])
        self._health = health.HealthServicer()
        self._server = grpc.aio.server(
            options=_options(config), maximum_concurrent_rpcs=config.max_calls
        )
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen for calls; returns the port.

        Raises ConfigError for an address or a certificate that cannot be used.
        """
        self._server.add_generic_rpc_handlers((_Handlers(self._handlers(), self._turning_away),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

        if self._config.listen.reflection:
            names = (
                SERVICE,
                health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
                reflection.SERVICE_NAME,
            )
            reflection.enable_server_reflection(names, self._server)

        port = self._listen()
        await self._server.start()

        if self._config.observing.metrics_port:
            self._metrics.serve(self._config.listen.host, self._config.observing.metrics_port)

        # Health and metrics are right as soon as this returns, and not only a second later.
        await self._watch_once()
        self._watcher = asyncio.create_task(self._watch())

        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, finish what has begun within `grace_seconds`, and end."""
        # Health comes first: a load balancer that watches it sends no more calls.
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)

        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher

        # Lines are gathered for a tenth of a second, and nobody would write the last ones later.
        self._log.write()

    def _handlers(self) -> dict[str, Any]:
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in METHODS
        }
        return handlers | {STREAM: grpc.stream_stream_rpc_method_handler(self._stream)}

    def _turning_away(self, name: str, metadata: Any) -> Any:
        """A handler that refuses the call before its request is read; None if the call may be made.

        The token in the call's `metadata` decides whether the call may be made.
        """
        try:
            self._admission.known("read" if name == STREAM else METHODS[name].role, metadata)
        except Exception as error:  # noqa: BLE001 (`_refuse` maps it to a status)
            # Python deletes `error` at the end of this block, and the handler runs later.
            problem = error

            async def handle(_: AsyncIterator[bytes], context: Any) -> None:
                await self._refuse(
                    _Call(name, request_id_of(metadata), time.perf_counter(), context), problem
                )

            # A handler of streams is called before anything is read, also for methods that take one
            # request. gRPC would read the request of such a method whole, however slowly it comes.
            return grpc.stream_stream_rpc_method_handler(handle)

        return None

    def _listen(self) -> int:
        listen = self._config.listen
        address = f"{listen.host}:{listen.port}"

        try:
            if listen.tls_cert is None:
                return int(self._server.add_insecure_port(address))
            return int(self._server.add_secure_port(address, _credentials(listen)))
        except RuntimeError as error:
            raise ConfigError(
                f"--host {listen.host} --port {listen.port}: cannot listen there: {error}; give an "
                "address of this machine and a port that is not in use"
            ) from error

    def _unary(self, name: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(data: bytes, context: Any) -> bytes:
            metadata = context.invocation_metadata() or ()
            call = _Call(name, request_id_of(metadata), time.perf_counter(), context)

            try:
                client = self._admission.admit(METHODS[name].role, metadata, context.peer())
                call.client = client.name
                return await self._answer(name, METHODS[name].request.FromString(data), call)
            except asyncio.CancelledError:
                self._over(call, "CANCELLED")
                raise
            except Exception as error:  # noqa: BLE001 (`_refuse` maps it to a status)
                return await self._refuse(call, error)

        return handle

    async def _answer(self, name: str, request: Any, call: "_Call") -> bytes:
        """Answer a request before its deadline, and note it in the log and the metrics."""
        method = METHODS[name]
        call.num_items = method.num_items(request)
        seconds = self._seconds_left(call.context)
        if seconds <= 0:
            # Nobody waits for the answer: a write must not be begun.
            raise TimeoutError

        async with asyncio.timeout(seconds):
            answer = await method.answer(self._service, request, seconds)

        self._over(call, "OK")
        return answer

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answer the requests of a stream in order; several requests are worked on at once."""
        metadata = context.invocation_metadata() or ()
        call = _Call(STREAM, request_id_of(metadata), time.perf_counter(), context)
        ahead = AnswersAhead(max_number=STREAM_AHEAD, max_weight=STREAM_AHEAD_NEIGHBORS)

        try:
            call.client = self._admission.admit("read", metadata, context.peer()).name
            reader = asyncio.create_task(self._read_stream(requests, call, ahead))
            try:
                await self._write_stream(call, ahead)
                # All answers before a bad request have been sent. Now its error ends the stream.
                await reader
            finally:
                reader.cancel()
                ahead.cancel()

            self._over(call, "OK")
        except asyncio.CancelledError:
            self._over(call, "CANCELLED")
            raise
        except Exception as error:  # noqa: BLE001 (`_refuse` maps it to a status)
            await self._refuse(call, error)

    async def _write_stream(self, call: "_Call", ahead: AnswersAhead) -> None:
        """Send answers as the client takes them.

        Raises TimeoutError when the client takes none for `idle_seconds`.
        """
        while (answer := await ahead.first()) is not None:
            try:
                async with asyncio.timeout(self._config.idle_seconds):
                    await call.context.write(answer)
            except grpc.aio.InternalError as error:
                # The client has gone, so that no status would reach it.
                raise asyncio.CancelledError from error

            # An answer counts toward the limits of `ahead` until the client has taken it.
            ahead.taken()
            call.num_items += 1

    async def _read_stream(
        self, requests: AsyncIterator[bytes], call: "_Call", ahead: AnswersAhead
    ) -> None:
        """Begin to answer the requests of a stream as they come."""
        try:
            for number in itertools.count():
                async with asyncio.timeout(self._config.idle_seconds):
                    data = await anext(requests, None)

                if data is None:
                    return

                # The first request was admitted with the stream. Later ones are admitted one by
                # one, because a token may be taken back while the stream is open.
                if number:
                    self._admission.admit(
                        "read", call.context.invocation_metadata() or (), call.context.peer()
                    )

                part = _Call(
                    STREAMED,
                    f"{call.request_id}.{number}",
                    time.perf_counter(),
                    call.context,
                    call.client,
                )

                request = messages.SearchRequest.FromString(data)
                weight = len(request.vectors) * request.k
                await ahead.make_room(weight)
                ahead.begin(self._answer(STREAMED, request, part), weight)
        finally:
            # This is done after an error too, because `_write_stream` would wait for ever
            # otherwise.
            ahead.end()

    def _seconds_left(self, context: Any) -> float:
        left, most = context.time_remaining(), self._config.limits.max_seconds
        return most if left is None else min(float(left), most)

    async def _refuse(self, call: "_Call", error: Exception) -> bytes:
        code, detail = refusal(
            error, call.method, call.request_id, time.perf_counter() - call.started
        )

        self._over(call, code.name, detail)
        await call.context.abort(code, detail)
        # `abort` always raises.
        raise AssertionError

    def _over(self, call: "_Call", code: str, detail: str = "") -> None:
        seconds = time.perf_counter() - call.started
        served = Served(
            call.request_id, call.method, call.client, code, seconds, call.num_items, detail
        )

        self._metrics.add(served)
        self._log.add(served)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self._watch_once()

    async def _watch_once(self) -> None:
        """Set health and metrics to what the index and the queue are now."""
        index = self._service.index
        statuses = health_pb2.HealthCheckResponse
        status = statuses.SERVING if index.failure is None else statuses.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

        generation = index.generation
        self._metrics.speakers.set(len(generation))
        self._metrics.generation.set(generation.number)
        self._metrics.unindexed.set(generation.num_unindexed)
        self._metrics.waiting.set(self._service.queue.num_waiting)


class _Handlers(grpc.GenericRpcHandler):
    """Finds the handler of a call before anything of the request is read.

    `turning_away` may return another handler, which refuses the call.
    """

    def __init__(self, handlers: dict[str, Any], turning_away: Callable[[str, Any], Any]) -> None:
        self._handlers = {
            f"/{SERVICE}/{name}": (name, handler) for name, handler in handlers.items()
        }
        self._turning_away = turning_away

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None for a method that the service does not have."""
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None

        name, handler = found
        return self._turning_away(name, handler_call_details.invocation_metadata or ()) or handler


@dataclass(slots=True)
class _Call:
    """One request while it is being answered."""

    method: str
    request_id: str
    started: float
    context: Any
    client: str = ""
    num_items: int = 0


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", config.limits.max_message_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", 16 << 10),
        ("grpc.absolute_max_metadata_size", 32 << 10),
        ("grpc.max_concurrent_streams", 256),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # A connection on which nothing happens is asked whether the client is still there, and is
        # closed when no answer comes.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", round(config.idle_seconds * 1000)),
        # Two servers on one port would share its clients, and nobody would notice.
        ("grpc.so_reuseport", 0),
    ]


def _credentials(listen: ListenConfig) -> grpc.ServerCredentials:
    """The credentials for TLS; clients need a certificate where there is a client CA."""
    try:
        key, certificate = (
            Path(str(listen.tls_key)).read_bytes(),
            Path(str(listen.tls_cert)).read_bytes(),
        )
        authority = None if listen.client_ca is None else Path(listen.client_ca).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"--tls-cert, --tls-key, --client-ca: cannot be read: {error}; give PEM files that "
            "this user may read"
        ) from error

    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=authority is not None
    )
