"""How the speaker index is offered: groups of options that one process, its writer and its replicas
share.
"""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from actors.speaker_index.search.config import IndexConfig
from shards.config import ConfigError, inlined, option, require_positive

LogRequests = Literal["all", "errors", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one request may ask of the service."""

    max_vectors: int = 4096
    max_k: int = 1000
    max_neighbors: int = 200_000  # vectors times k: what an answer holds
    max_predictions: int = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenConfig:
    """Where a server listens, and how connections are secured."""

    host: str = option(default="127.0.0.1", help="Address to listen on.")
    port: int = option(default=50051, help="Port to listen on; 0 takes a free one.")
    tls_cert: str | None = option(default=None, help="Certificate chain of the server, PEM.")
    tls_key: str | None = option(default=None, help="Private key of the server's certificate, PEM.")
    client_ca: str | None = option(
        default=None, help="Clients need a certificate of this authority, PEM."
    )
    allow_plaintext: bool = option(
        default=False, help="Listen without TLS on an address others can reach."
    )
    reflection: bool = option(
        default=False, help="Tell clients such as grpcurl the methods and messages."
    )

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("--tls-cert, --tls-key: give both or neither")
        if self.client_ca is not None and self.tls_cert is None:
            raise ConfigError("--client-ca: needs --tls-cert and --tls-key")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"--port: got {self.port}, expected 0 to 65535")
        if self.tls_cert is None and not self.allow_plaintext and not _is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: others could read voices and tokens on their way; give "
                "--tls-cert and --tls-key, or --allow-plaintext where something else encrypts"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CallersConfig:
    """Who may call, and how often."""

    tokens: str | None = option(
        default=None, help="File of bearer tokens, a line each: `read|write NAME TOKEN`."
    )
    requests_per_second: float = option(
        default=0.0, help="The most requests a second of one client; 0: no limit."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one request may ask for."""

    max_seconds: float = option(
        default=30.0, help="Seconds after which a request is given up, whatever its deadline."
    )
    max_vectors: int = option(
        default=4096, help="The most vectors, speakers or names in one request."
    )
    max_k: int = option(
        default=1000, help="The most neighbors of one vector that a request may ask for."
    )
    max_message_mib: int = option(default=32, help="The largest request, in MiB.")

    def __post_init__(self) -> None:
        require_positive(self, "--max-vectors", "--max-k", "--max-message-mib", "--max-seconds")

    @property
    def max_message_bytes(self) -> int:
        """The largest request."""
        return self.max_message_mib << 20

    @property
    def of_service(self) -> Limits:
        """What the service itself looks at."""
        return Limits(max_vectors=self.max_vectors, max_k=self.max_k)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservingConfig:
    """What a server says of itself."""

    log_requests: LogRequests = option(
        default="all", help="Which requests get a line of JSON on standard error."
    )
    metrics_port: int = option(default=0, help="Port for Prometheus; 0: none.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How one process offers the service."""

    listen: ListenConfig = inlined(ListenConfig)
    callers: CallersConfig = inlined(CallersConfig)
    limits: LimitsConfig = inlined(LimitsConfig)
    observing: ObservingConfig = inlined(ObservingConfig)
    idle_seconds: float = 300.0
    max_calls: int = 1024  # at once, of all clients


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaConfig:
    """How the processes on Ray Serve, which listens for them, answer."""

    data: str
    speakers: str
    index: IndexConfig
    callers: CallersConfig  # at one replica
    limits: LimitsConfig
    threads: int


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
