"""Options of `emostream serve`."""

from dataclasses import dataclass

from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.serving.config import (
    CallersConfig,
    LimitsConfig,
    ListenConfig,
    ObservingConfig,
)
from shards.config import ConfigError, inlined, option, require_at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Options of `emostream serve`."""

    data: str = option(
        help="Folder for snapshots and for the journal of writes. Only one server may write to it."
    )
    speakers: str | None = option(
        default=None, help="Speaker table from `emostream embed`. Not for a server with --follow."
    )
    follow: bool = option(
        default=False, help="Serve what another server writes to --data, and accept no writes."
    )
    listen: ListenConfig = inlined(ListenConfig)
    callers: CallersConfig = inlined(CallersConfig)
    limits: LimitsConfig = inlined(LimitsConfig)
    observing: ObservingConfig = inlined(ObservingConfig)
    threads: int = option(
        default=0,
        help="Number of threads that search; 0: one fewer than there are CPUs, and at least one.",
    )
    drain_seconds: float = option(
        default=20.0, help="Seconds that requests in progress get to finish after SIGTERM."
    )
    replicas: int = option(
        default=0,
        help="Number of replicas on Ray Serve, which all follow one writer; 0: this process alone, "
        "without Ray.",
    )
    address: str | None = option(
        default=None,
        help="Address of the Ray cluster for --replicas. Without it, a cluster is started on this "
        "machine.",
    )
    http_port: int = option(
        default=8000, help="Port of Ray Serve's own HTTP server on each node, for --replicas."
    )
    index: IndexConfig = option(
        default_factory=IndexConfig, help="Search of vectors: kind of index, recall, and GPUs."
    )

    def __post_init__(self) -> None:
        if self.follow == (self.speakers is not None):
            raise ConfigError(
                "--speakers: give a speaker table, or --follow to serve what another server "
                "writes, and not both"
            )
        require_at_least(self, 0, "--replicas")
