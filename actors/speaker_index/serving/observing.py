"""What the server reports about itself: a line for every request, and metrics for Prometheus.

A line is JSON and has the time, request id, method, client, status, milliseconds, and the number of
vectors or speakers. It never has a vector, a label or a token. Lines are gathered and written ten
times a second, because one write for each request would cost more than the answer. Metrics are
counted for each method and status.
"""

import asyncio
import functools
import itertools
import json
import secrets
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from actors.speaker_index.serving.config import LogRequests
from shards.samples.keys import printable

WRITE_SECONDS = 0.1
MAX_REQUEST_ID_CHARACTERS = 64
REQUEST_ID = "x-request-id"
SECONDS_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)

# A request id has a part that is new for each process, and a running number: `3f2e91ab-17`.
_PROCESS, _NUMBERS = secrets.token_hex(4), itertools.count(1)


@dataclass(frozen=True, slots=True)
class Served:
    """A request that has been answered or refused."""

    request_id: str
    method: str
    client: str
    code: str
    seconds: float
    num_items: int
    detail: str = ""


class RequestLog:
    """Writes lines about requests to a stream, standard error by default.

    `which` chooses the requests: all, only those that ended with an error, or none.
    """

    def __init__(self, which: LogRequests, stream: TextIO | None = None) -> None:
        self._which, self._stream = which, stream or sys.stderr
        self._lines: list[str] = []
        self._is_due = False

    def add(self, served: Served) -> None:
        """Add a line for one request; it is written within a tenth of a second."""
        if self._which == "none" or (self._which == "errors" and served.code == "OK"):
            return

        self._lines.append(_line(served))
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(WRITE_SECONDS, self.write)

    def write(self) -> None:
        """Write the lines that have been added."""
        self._is_due = False
        lines, self._lines = self._lines, []

        if lines:
            self._stream.write("".join(lines))
            self._stream.flush()


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, methods: Iterable[str]) -> None:
        self.registry = CollectorRegistry()

        labels = ("method", "code")
        self._requests = Counter(
            "emostream_requests",
            "Requests, by method and status.",
            labels,
            registry=self.registry,
        )
        self._items = Counter(
            "emostream_items",
            "Vectors searched and speakers written.",
            ("method",),
            registry=self.registry,
        )
        self._seconds = Histogram(
            "emostream_request_seconds",
            "Seconds to answer a request.",
            ("method",),
            buckets=SECONDS_BUCKETS,
            registry=self.registry,
        )
        # Counters are looked up once, because a look-up by labels costs more than counting.
        self._of_method = {
            m: (self._requests.labels(m, "OK"), self._items.labels(m), self._seconds.labels(m))
            for m in methods
        }

        self.speakers = Gauge(
            "emostream_speakers", "Speakers in the index.", registry=self.registry
        )
        self.generation = Gauge(
            "emostream_generation",
            "Generation of the index that is served.",
            registry=self.registry,
        )
        self.waiting = Gauge(
            "emostream_waiting_vectors", "Vectors that wait to be searched.", registry=self.registry
        )
        self.unindexed = Gauge(
            "emostream_unindexed",
            "Speakers written or gone since the last rebuild.",
            registry=self.registry,
        )

    def add(self, served: Served) -> None:
        """Count one request in all metrics."""
        succeeded, items, seconds = self._of_method[served.method]

        if served.code == "OK":
            succeeded.inc()
            items.inc(served.num_items)
        else:
            self._requests.labels(served.method, served.code).inc()

        seconds.observe(served.seconds)

    def serve(self, host: str, port: int) -> None:
        """Answer Prometheus on this address, from a thread that this starts."""
        start_http_server(port, host, registry=self.registry)


def request_id_of(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """The client's own `x-request-id`, made printable, or a new id where the client sends none."""
    given = next((value for name, value in metadata if name == REQUEST_ID), None)

    if isinstance(given, str) and given:
        return printable(given, MAX_REQUEST_ID_CHARACTERS)
    return f"{_PROCESS}-{next(_NUMBERS)}"


def _line(served: Served) -> str:
    detail = f', "detail": {json.dumps(printable(served.detail, 300))}' if served.detail else ""
    return (
        f'{{"time": "{_second(int(time.time()))}", "request": {json.dumps(served.request_id)}, '
        f'"method": "{served.method}", "client": {json.dumps(printable(served.client))}, '
        f'"code": "{served.code}", "ms": '
        f'{1000 * served.seconds:.2f}, "items": {served.num_items}{detail}}}\n'
    )


@functools.lru_cache(4)
# Many lines have the same second: the last few texts are kept.
def _second(now: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
