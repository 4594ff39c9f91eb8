"""Options of `emostream serve`."""

import ipaddress
from dataclasses import dataclass
from typing import Literal

from actors.speaker_index.search.config import IndexConfig
from shards.config import ConfigError, option, require_at_least, require_positive


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
        require_at_least(self, 0, "--replicas")
        if not 0 <= self.port < 1 << 16:
            raise ConfigError(f"--port: got {self.port}, expected 0 to 65535")
        require_positive(self, "--max-vectors", "--max-k", "--max-message-mib", "--max-seconds")
        if self.tls_cert is None and not self.allow_plaintext and not _is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host}: others could read voices and tokens on their way; give --tls-cert and --tls-key, "
                "or --allow-plaintext where something else encrypts"
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
