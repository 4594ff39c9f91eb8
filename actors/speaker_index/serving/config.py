"""How the speaker index is offered: options that a server, its writer and its replicas share."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from actors.speaker_index.search.config import IndexConfig
from shards.config import ConfigError, inlined, option, require_positive

LogRequests = Literal["all", "errors", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that one request may ask of the service."""

    max_vectors: int = 4096
    max_k: int = 1000
    # Vectors times k: the neighbors in one answer.
    max_neighbors: int = 200_000
    max_predictions: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Options of where a server listens, and how connections are secured."""

    host: str = option(default="127.0.0.1", help="Address to listen on.")
    port: int = option(default=50051, help="Port to listen on; 0: a free port.")
    tls_cert: str | None = option(
        default=None, help="PEM file with the certificate chain of the server."
    )
    tls_key: str | None = option(
        default=None, help="PEM file with the private key of the server's certificate."
    )
    client_ca: str | None = option(
        default=None,
        help="PEM file of a certificate authority. Clients then need a certificate that it signed.",
    )
    allow_plaintext: bool = option(
        default=False,
        help="Listen without TLS on an address that other machines can reach, where something else "
        "encrypts.",
    )
    reflection: bool = option(
        default=False,
        help="Describe the methods and messages to clients that ask for them, such as grpcurl.",
    )

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert, --tls-key: got only one of them; give both or neither")
        if self.client_ca is not None and self.tls_cert is None:
            raise ConfigError("--client-ca: needs --tls-cert and --tls-key; give them too")

        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"--port: got {self.port}, expected 0 to 65535")

        if self.tls_cert is None and not self.allow_plaintext and not _is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: without TLS, others could read voices and tokens on the "
                "way there; give --tls-cert and --tls-key, or --allow-plaintext where something "
                "else encrypts"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallersConfig:
    """Options of who may call, and how often."""

    tokens: str | None = option(
        default=None,
        help="File of bearer tokens with lines such as `read NAME TOKEN` or `write NAME TOKEN`. "
        "Without it, everybody may read and write.",
    )
    requests_per_second: float = option(
        default=0.0, help="Largest number of requests a second from one client; 0: no limit."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Options of how much one request may ask for."""

    max_seconds: float = option(
        default=30.0,
        help="Seconds after which a request is given up, even if the client allows more.",
    )
    max_vectors: int = option(
        default=4096, help="Largest number of vectors, speakers or names in one request."
    )
    max_k: int = option(
        default=1000, help="Largest number of neighbors that a request may ask for per vector."
    )
    max_message_mib: int = option(default=32, help="Largest size of a request, in MiB.")

    def __post_init__(self) -> None:
        require_positive(self, "--max-vectors", "--max-k", "--max-message-mib", "--max-seconds")

    @property
    def max_message_bytes(self) -> int:
        """The largest size of a request, in bytes."""
        return self.max_message_mib << 20

    @property
    def of_service(self) -> Limits:
        """The limits that the service itself checks."""
        return Limits(max_vectors=self.max_vectors, max_k=self.max_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservingConfig:
    """Options of what a server reports about itself."""

    log_requests: LogRequests = option(
        default="all",
        help="Requests that get a line of JSON on standard error: all, those with errors, or none.",
    )
    metrics_port: int = option(
        default=0, help="Port on which Prometheus can read metrics; 0: no metrics."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How one process offers the service.

    A stream that is idle for `idle_seconds` is ended. `max_calls` is the largest number of calls at
    once, of all clients together.
    """

    listen: ListenConfig = inlined(ListenConfig)
    callers: CallersConfig = inlined(CallersConfig)
    limits: LimitsConfig = inlined(LimitsConfig)
    observing: ObservingConfig = inlined(ObservingConfig)
    idle_seconds: float = 300.0
    max_calls: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """How the writer and the replicas answer on Ray Serve, which listens for them.

    `callers` holds the limits of one replica, not of all together.
    """

    data: str
    speakers: str
    index: IndexConfig
    callers: CallersConfig
    limits: LimitsConfig
    threads: int


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
