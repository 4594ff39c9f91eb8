"""`emostream serve --replicas N`: the speaker index on a Ray cluster.

N replicas answer behind Ray Serve's gRPC proxies; one writer serves their writes.
"""

import logging
import os
import signal
import sys
from threading import Event
from typing import TYPE_CHECKING

from actors.speaker_index.serving.config import CallersConfig, ReplicaConfig
from shards.config import ConfigError, options_of

if TYPE_CHECKING:
    from cluster.serving.config import ServeConfig

log = logging.getLogger(__name__)

APPLICATION = "speakers"
# Options of a single server for which Ray Serve has ways of its own.
WITHOUT_EFFECT = ("host", "log_requests", "metrics_port", "drain_seconds")
SERVICER = "protos.speaker_index_pb2_grpc.add_SpeakerIndexServicer_to_server"


def serve_on_ray(config: "ServeConfig") -> int:
    """Serve until SIGTERM or SIGINT.

    Raises ConfigError for what Ray Serve cannot do, and for a cluster that has too few CPUs.
    """
    from ray import serve
    from ray.serve.config import gRPCOptions

    from cluster.nodes.session import ray_session

    application = _application(config)

    with ray_session(config.address) as nodes:
        num_cpus = sum(node.num_cpus for node in nodes)
        if num_cpus < config.replicas + 1:
            raise ConfigError(
                f"--replicas: got {config.replicas}, which with the writer takes "
                f"{config.replicas + 1} CPUs; the cluster has {num_cpus:g}, so give fewer replicas"
            )

        grpc_options = gRPCOptions(
            port=config.listen.port,
            grpc_servicer_functions=[SERVICER],
            request_timeout_s=config.limits.max_seconds,
            enable_reflection=config.listen.reflection,
        )
        serve.start(
            grpc_options=grpc_options, http_options={"host": "127.0.0.1", "port": config.http_port}
        )

        serve.run(application, name=APPLICATION, route_prefix="/speakers")
        sys.stdout.write(
            f"serving {config.replicas} replicas on port {config.listen.port} of every node with a "
            "replica\n"
        )
        sys.stdout.flush()

        ended = Event()
        # These handlers are set only now, because Ray has set handlers of its own before.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: ended.set())

        ended.wait()
        log.info("ending the replicas, then the writer")
        serve.shutdown()
    return 0


def _application(config: "ServeConfig") -> object:
    from actors.speaker_index.serving.replica_actor import speaker_application

    if config.speakers is None or config.follow:
        raise ConfigError(
            "--replicas: needs --speakers and excludes --follow; one of the processes that are "
            "started is the writer"
        )

    options = options_of(type(config))
    idle = [name for name in WITHOUT_EFFECT if options[name].value(config) != options[name].default]
    if idle:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
        raise ConfigError(
            f"--replicas: {names} would have no effect, because Ray Serve itself listens, logs and "
            "counts; leave out these options"
        )

    if config.listen.tls_cert is not None:
        raise ConfigError(
            "--replicas: Ray Serve's proxies have no TLS; leave --tls-cert out, and encrypt in "
            "front of the proxies"
        )

    if not config.listen.allow_plaintext:
        raise ConfigError(
            "--replicas: Ray Serve's proxies listen without TLS on addresses that other machines "
            "can reach; give --allow-plaintext where something in front of the proxies encrypts"
        )

    # A relative path would mean another folder in the processes that Ray starts.
    replica = ReplicaConfig(
        data=os.path.abspath(config.data),
        speakers=config.speakers if "://" in config.speakers else os.path.abspath(config.speakers),
        index=config.index,
        callers=CallersConfig(
            tokens=None
            if config.callers.tokens is None
            else os.path.abspath(config.callers.tokens),
            # Calls are dealt evenly among the replicas, so that each grants its share of the limit.
            requests_per_second=config.callers.requests_per_second / config.replicas,
        ),
        limits=config.limits,
        threads=config.threads or 1,
    )

    return speaker_application(replica, config.replicas)
