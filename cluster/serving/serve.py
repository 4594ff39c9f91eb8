"""`emostream serve`: the speaker index over gRPC, from a speaker table and a folder that keeps what clients write.

One process serves and writes. With --follow it serves what another process writes to the same folder; with --replicas
Ray Serve runs a writer and followers.
"""

import asyncio
import ipaddress
import logging
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from actors.speaker_index.search.config import IndexConfig
from shards.config import ConfigError, option

if TYPE_CHECKING:
    from actors.speaker_index.serving.service import SpeakerIndex  # with FAISS, which the help text does not need

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Options of `emostream serve`."""

    speakers: str | None = option(default=None, help="Speaker table, as `emostream embed` writes it.")
    data: str = option(help="Folder for snapshots and the journal of writes; one server writes to it.")
    host: str = option(default="127.0.0.1", help="Address to listen on.")
    port: int = option(default=50051, help="Port to listen on; 0 takes a free one.")
    tls_cert: str | None = option(default=None, help="Certificate chain of the server, PEM.")
    tls_key: str | None = option(default=None, help="Its private key, PEM.")
    client_ca: str | None = option(default=None, help="Clients need a certificate of this authority, PEM.")
    tokens: str | None = option(default=None, help="File of bearer tokens, a line each: `read|write NAME TOKEN`.")
    allow_plaintext: bool = option(default=False, help="Listen without TLS on an address others can reach.")
    requests_per_second: float = option(default=0.0, help="Of each client at most; 0: no limit.")
    max_seconds: float = option(default=30.0, help="A request is given up after so long, whatever its deadline.")
    max_vectors: int = option(default=4096, help="Vectors, speakers or names in one request.")
    max_k: int = option(default=1000, help="Neighbours of a vector.")
    max_message_mib: int = option(default=32, help="Size of a request.")
    threads: int = option(default=0, help="Threads that search; 0: one fewer than there are CPUs, at least one.")
    reflection: bool = option(default=False, help="Tell clients such as grpcurl the methods and messages.")
    log_requests: Literal["all", "errors", "none"] = option(default="all", help="Which requests get a line of JSON.")
    metrics_port: int = option(default=0, help="Port for Prometheus; 0: none.")
    drain_seconds: float = option(default=20.0, help="Time for requests in progress after SIGTERM.")
    follow: bool = option(default=False, help="Serve what another server writes to --data, and take no writes.")
    replicas: int = option(
        default=0, help="Serve with so many replicas that follow one writer, on Ray Serve; 0: this process alone."
    )
    address: str | None = option(default=None, help="Ray cluster for --replicas; default: this machine.")
    http_port: int = option(default=8000, help="Port Ray Serve's own HTTP takes on each node, for --replicas.")
    index: IndexConfig = option(default_factory=IndexConfig, help="How vectors are searched.")

    def __post_init__(self) -> None:
        if self.follow == (self.speakers is not None):
            raise ConfigError("--speakers: give a speaker table, or --follow to serve what another server writes")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert, --tls-key: give both or neither")
        if self.client_ca is not None and self.tls_cert is None:
            raise ConfigError("--client-ca: needs --tls-cert and --tls-key")
        if self.replicas < 0:
            raise ConfigError(f"--replicas: got {self.replicas}, expected 0 or more")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"--port: got {self.port}, expected 0 to 65535")
        for name in ("max_vectors", "max_k", "max_message_mib", "max_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"--{name.replace('_', '-')}: got {getattr(self, name)}, expected more than 0")
        if self.tls_cert is None and not self.allow_plaintext and not _is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: others could read voices and tokens on their way; give --tls-cert and --tls-key, "
                "or --allow-plaintext where something else encrypts"
            )


def run_serve(config: ServeConfig) -> int:
    """Serve until SIGTERM or SIGINT."""
    if config.replicas:
        from cluster.serving.on_ray import serve_on_ray

        return serve_on_ray(config)
    index = open_index(config)
    try:
        asyncio.run(_serve(config, index))
    finally:
        index.close()
    return 0


def open_index(config: ServeConfig) -> "SpeakerIndex":
    """The store, or the follower, that the options ask for."""
    from actors.speaker_index.storage.follower import SpeakerFollower
    from actors.speaker_index.storage.store import open_store

    if config.speakers is None:
        return SpeakerFollower(config.data, config.index)
    return open_store(config.data, config.speakers, config.index)


async def _serve(config: ServeConfig, index: "SpeakerIndex") -> None:
    from actors.speaker_index.serving.server import ServerConfig, SpeakerServer
    from actors.speaker_index.serving.service import Limits, SpeakerService

    limits = Limits(max_vectors=config.max_vectors, max_k=config.max_k)
    service = SpeakerService(index, limits, num_threads=config.threads or max(1, (os.cpu_count() or 1) - 1))
    offered = ServerConfig(
        host=config.host,
        port=config.port,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
        client_ca=config.client_ca,
        tokens=config.tokens,
        requests_per_second=config.requests_per_second,
        max_seconds=config.max_seconds,
        max_message_bytes=config.max_message_mib << 20,
        reflection=config.reflection,
        log_requests=config.log_requests,
        metrics_port=config.metrics_port,
    )
    server = SpeakerServer(service, offered)
    port = await server.start()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    generation = index.generation
    sys.stdout.write(f"serving {len(generation)} speakers (generation {generation.number}) on {config.host}:{port}\n")
    sys.stdout.flush()
    await ended.wait()
    log.info("ending: finishing what has begun within %g s", config.drain_seconds)
    await server.stop(config.drain_seconds)
    service.close()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
