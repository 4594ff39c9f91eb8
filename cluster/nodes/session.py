"""A Ray cluster to work on: one that exists already, or a local one for the length of the job.

Order of preference: `--address`; the cluster this process was submitted to (`ray job submit` sets
RAY_ADDRESS); a local Ray. Ray's own token authentication stays on for a local Ray too.
"""

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from shards.config import ConfigError

log = logging.getLogger(__name__)

CONNECT_ATTEMPTS = 3
LOCAL_OBJECT_STORE_SHARE = 0.1  # of free memory; chunks in flight need tens of megabytes a labeler
LOCAL_OBJECT_STORE_MIN_BYTES = 256 * 2**20
LOCAL_OBJECT_STORE_MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class NodeResources:
    """The CPUs and GPUs that one live node offers."""

    num_cpus: float
    num_gpus: float


@contextlib.contextmanager
def ray_session(address: str | None) -> Iterator[list[NodeResources]]:
    """Connect to Ray, or start it; yield the resources of the live nodes; disconnect or stop it."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is None:
        _start_local()
    else:
        _connect(address)
    try:
        yield live_nodes()
    finally:
        ray.shutdown()


def live_nodes() -> list[NodeResources]:
    """Return the resources of every live node of the connected cluster."""
    return [
        NodeResources(
            float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0))
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _start_local() -> None:
    share = int(psutil.virtual_memory().available * LOCAL_OBJECT_STORE_SHARE)

    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        object_store_memory=min(
            max(share, LOCAL_OBJECT_STORE_MIN_BYTES), LOCAL_OBJECT_STORE_MAX_BYTES
        ),
    )


def _connect(address: str) -> None:
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            ray.init(
                address=address,
                log_to_driver=False,
                configure_logging=False,
                runtime_env=_runtime_env(),
            )
        except (ConnectionError, RuntimeError) as error:
            # For every Ray Client, the head forks a server out of a process with many threads, and
            # now and then that server dies at once. Only this is worth another try.
            if isinstance(error, ConnectionAbortedError) and attempt < CONNECT_ATTEMPTS:
                log.warning("the cluster at %s broke the connection off; trying again", address)
                continue
            raise ConfigError(
                f"cannot reach the Ray cluster at {address}: {error}; check that `ray status "
                f"--address {address}` works from here, and that this machine holds the cluster's "
                "token (RAY_AUTH_TOKEN or ~/.ray/auth_token)"
            ) from error
        else:
            return


def _runtime_env() -> dict[str, Any]:
    """Send this project's packages to the workers.

    A job that came with `ray job submit` has brought its working directory already, and needs none.
    """
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return {}

    import actors
    import cluster
    import protos
    import shards
    import trainers

    # Why folders: Ray Client cannot send modules.
    return {
        "py_modules": [
            package.__path__[0] for package in (shards, trainers, actors, cluster, protos)
        ]
    }
