"""`emostream serve --replicas N`: the speaker index on a Ray cluster, N replicas behind Ray Serve's gRPC proxies."""

import logging
import os
import signal
import sys
from dataclasses import fields
from threading import Event
from typing import TYPE_CHECKING

from shards.config import ConfigError

if TYPE_CHECKING:
    from cluster.serving.config import ServeConfig

log = logging.getLogger(__name__)

APPLICATION = "speakers"
WITHOUT_EFFECT = ("host", "log_requests", "metrics_port", "drain_seconds")  # Serve has its own
SERVICER = "protos.speaker_index_pb2_grpc.add_SpeakerIndexServicer_to_server"


def serve_on_ray(config: "ServeConfig") -> int:
    """Serve until SIGTERM or SIGINT. Raises ConfigError for what Serve cannot do, or a cluster that is too small."""
    from ray import serve
    from ray.serve.config import gRPCOptions

    from cluster.nodes.session import ray_session

    application = _application(config)
    with ray_session(config.address) as nodes:
        num_cpus = sum(node.num_cpus for node in nodes)
        if num_cpus < config.replicas + 1:
            raise ConfigError(
                f"--replicas: got {config.replicas}, which with the writer takes {config.replicas + 1} CPUs; the "
                f"cluster has {num_cpus:g}"
            )
        grpc_options = gRPCOptions(
            port=config.port,
            grpc_servicer_functions=[SERVICER],
            request_timeout_s=config.max_seconds,
            enable_reflection=config.reflection,
        )
        serve.start(grpc_options=grpc_options, http_options={"host": "127.0.0.1", "port": config.http_port})
        serve.run(application, name=APPLICATION, route_prefix="/speakers")
        sys.stdout.write(f"serving {config.replicas} replicas on port {config.port} of every node with a replica\n")
        sys.stdout.flush()
        ended = Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())  # now: Ray has put handlers of its own there
        ended.wait()
        log.info("ending the replicas, then the writer")
        serve.shutdown()
    return 0


def _application(config: "ServeConfig") -> object:
    from actors.speaker_index.serving.replica_actor import ReplicaConfig, speaker_application
    from actors.speaker_index.serving.service import Limits

    if config.speakers is None or config.follow:
        raise ConfigError("--replicas: needs --speakers; the writer is one of the processes that are started")
    idle = [
        one.name for one in fields(config) if one.name in WITHOUT_EFFECT and getattr(config, one.name) != one.default
    ]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ConfigError(f"--replicas: {names} would have no effect: Ray Serve listens, logs and counts; leave it out")
    if config.tls_cert is not None:
        raise ConfigError(
            "--replicas: Ray Serve's proxies have no TLS; leave --tls-cert out, and encrypt in front of them"
        )
    if not config.allow_plaintext:
        raise ConfigError(
            "--replicas: Ray Serve's proxies listen, without TLS, on addresses others can reach; give "
            "--allow-plaintext where something in front of them encrypts"
        )
    replica = ReplicaConfig(
        data=os.path.abspath(config.data),
        speakers=config.speakers if "://" in config.speakers else os.path.abspath(config.speakers),
        index=config.index,
        limits=Limits(max_vectors=config.max_vectors, max_k=config.max_k),
        tokens=None if config.tokens is None else os.path.abspath(config.tokens),
        requests_per_second=config.requests_per_second / config.replicas,  # calls are dealt evenly
        max_message_bytes=config.max_message_mib << 20,
        max_seconds=config.max_seconds,
        threads=config.threads or 1,
    )
    return speaker_application(replica, config.replicas)
