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
        help="Folder for snapshots and the journal of writes; one server writes to it."
    )
    speakers: str | None = option(
        default=None, help="Speaker table, as `emostream embed` writes it."
    )
    follow: bool = option(
        default=False, help="Serve what another server writes to --data, and take no writes."
    )
    listen: ListenConfig = inlined(ListenConfig)
    callers: CallersConfig = inlined(CallersConfig)
    limits: LimitsConfig = inlined(LimitsConfig)
    observing: ObservingConfig = inlined(ObservingConfig)
    threads: int = option(
        default=0, help="Threads that search; 0: one fewer than there are CPUs, at least one."
    )
    drain_seconds: float = option(
        default=20.0, help="Seconds for requests in progress after SIGTERM."
    )
    replicas: int = option(
        default=0,
        help="Replicas on Ray Serve, all of which follow one writer; 0: this process alone, "
        "without Ray.",
    )
    address: str | None = option(
        default=None, help="Ray cluster for --replicas; default: this machine."
    )
    http_port: int = option(
        default=8000, help="Port Ray Serve's own HTTP takes on each node, for --replicas."
    )
    index: IndexConfig = option(default_factory=IndexConfig, help="How vectors are searched.")

    def __post_init__(self) -> None:
        if self.follow == (self.speakers is not None):
            raise ConfigError(
                "--speakers: give a speaker table, or --follow to serve what another server writes"
            )
        require_at_least(self, 0, "--replicas")
