"""The speaker index over gRPC: connections, who may call, deadlines, statuses, and an orderly end.

Requests arrive as bytes and are parsed here, so that what is no message of ours is INVALID_ARGUMENT
and not an internal error. Every call goes through one function, which also maps exceptions to
statuses; interceptors were left out, as each costs a layer of coroutines per call. Tokens are
looked at before a request is read: what others send, or begin to send, is not kept.
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

STREAM_AHEAD = 16  # requests of a stream that are worked on at once
STREAM_AHEAD_NEIGHBORS = 200_000  # and what their answers may hold
WATCH_SECONDS = 1.0


class SpeakerServer:
    """A running server; `start`, then `stop`."""

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
        """Listen; returns the port. Raises ConfigError for an address or certificate that cannot be
        used.
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
        await self._watch_once()
        self._watcher = asyncio.create_task(self._watch())
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Say that no more is served, finish what has begun within `grace_seconds`, and end."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        self._log.write()

    def _handlers(self) -> dict[str, Any]:
        handlers: dict[str, Any] = {
            name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in METHODS
        }
        return handlers | {STREAM: grpc.stream_stream_rpc_method_handler(self._stream)}

    def _turning_away(self, name: str, metadata: Any) -> Any:
        """What ends a call of one who may not make it, without reading what is sent; None for those
        who may.
        """
        try:
            self._admission.known("read" if name == STREAM else METHODS[name].role, metadata)
        except Exception as error:  # noqa: BLE001 (as below)
            problem = error

            async def handle(_: AsyncIterator[bytes], context: Any) -> None:
                await self._refuse(
                    _Call(name, request_id_of(metadata), time.perf_counter(), context), problem
                )

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
                f"--host {listen.host} --port {listen.port}: cannot listen there: {error}"
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
            except Exception as error:  # noqa: BLE001 (the one place that maps what went wrong to a status)
                return await self._refuse(call, error)

        return handle

    async def _answer(self, name: str, request: Any, call: "_Call") -> bytes:
        """Answer within the deadline, and note."""
        method = METHODS[name]
        call.num_items = method.num_items(request)
        seconds = self._seconds_left(call.context)
        if seconds <= 0:
            raise TimeoutError  # a write that nobody waits for must not be begun
        async with asyncio.timeout(seconds):
            answer = await method.answer(self._service, request, seconds)
        self._over(call, "OK")
        return answer

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Answers in the order of the requests, several of which are worked on at once."""
        metadata = context.invocation_metadata() or ()
        call = _Call(STREAM, request_id_of(metadata), time.perf_counter(), context)
        ahead = AnswersAhead(max_number=STREAM_AHEAD, max_weight=STREAM_AHEAD_NEIGHBORS)
        try:
            call.client = self._admission.admit("read", metadata, context.peer()).name
            reader = asyncio.create_task(self._read_stream(requests, call, ahead))
            try:
                await self._write_stream(call, ahead)
                await reader
            finally:
                reader.cancel()
                ahead.cancel()
            self._over(call, "OK")
        except asyncio.CancelledError:
            self._over(call, "CANCELLED")
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            await self._refuse(call, error)

    async def _write_stream(self, call: "_Call", ahead: AnswersAhead) -> None:
        """Send answers as the client takes them. Raises TimeoutError when it takes none for
        long.
        """
        while (answer := await ahead.first()) is not None:
            try:
                async with asyncio.timeout(self._config.idle_seconds):
                    await call.context.write(answer)
            except grpc.aio.InternalError as error:
                # the client has gone: no status reaches it either
                raise asyncio.CancelledError from error
            ahead.taken()
            call.num_items += 1

    async def _read_stream(
        self, requests: AsyncIterator[bytes], call: "_Call", ahead: AnswersAhead
    ) -> None:
        """Begin to answer requests as they come."""
        try:
            for number in itertools.count():
                async with asyncio.timeout(self._config.idle_seconds):
                    data = await anext(requests, None)
                if data is None:
                    return
                if number:  # the first was admitted with the stream
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
        raise AssertionError  # abort raises

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
        """Keep health and gauges true."""
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
    """The handlers of the methods, or what `turning_away` has in place of one: asked for before
    anything is read.
    """

    def __init__(self, handlers: dict[str, Any], turning_away: Callable[[str, Any], Any]) -> None:
        self._handlers = {
            f"/{SERVICE}/{name}": (name, handler) for name, handler in handlers.items()
        }
        self._turning_away = turning_away

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None for a method that is not ours."""
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        name, handler = found
        return self._turning_away(name, handler_call_details.invocation_metadata or ()) or handler


@dataclass(slots=True)
class _Call:
    """One request while it is served."""

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
        # A connection that says nothing is asked whether it is there, and closed when it is not.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.max_connection_idle_ms", round(config.idle_seconds * 1000)),
        (
            "grpc.so_reuseport",
            0,
        ),  # two servers on one port would share its clients without anybody noticing
    ]


def _credentials(listen: ListenConfig) -> grpc.ServerCredentials:
    """TLS, mutual where there is a client CA."""
    try:
        key, certificate = (
            Path(str(listen.tls_key)).read_bytes(),
            Path(str(listen.tls_cert)).read_bytes(),
        )
        authority = None if listen.client_ca is None else Path(listen.client_ca).read_bytes()
    except OSError as error:
        raise ConfigError(f"--tls-cert, --tls-key, --client-ca: cannot be read: {error}") from error
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authority, require_client_auth=authority is not None
    )
