"""A client of the speaker index for benchmarks, and the bare gRPC echo it is compared with.

Each is a process of its own:

    python -m tests.benchmarks.serving.speaker_load load TARGET --batch B --concurrency C
        [--seconds S]
    python -m tests.benchmarks.serving.speaker_load echo FILE

The first prints a line of JSON; the second answers every call with the bytes of FILE, and prints
its port.

Requests are made beforehand and answers are not parsed, so that only the server is measured, on
another core.
"""

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

import grpc
import numpy as np

from actors.speaker_index.serving.calls import SERVICE
from protos import speaker_index_pb2 as messages
from tests.benchmarks.serving.speaker_vectors import FINGERPRINT, WIDTH, make_vectors

OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
NUM_REQUESTS = 32  # different ones, in turn
QUERY_SEED = 99


def make_requests(batch: int, k: int) -> list[bytes]:
    """Encode searches of `batch` vectors."""
    vectors = make_vectors(batch * NUM_REQUESTS, QUERY_SEED).reshape(NUM_REQUESTS, batch, WIDTH)
    return [
        messages.SearchRequest(
            encoder_fingerprint=FINGERPRINT,
            k=k,
            vectors=[messages.Vector(values=row) for row in rows.tolist()],
        ).SerializeToString()
        for rows in vectors
    ]


async def load(
    target: str, batch: int, concurrency: int, seconds: float, k: int
) -> dict[str, float]:
    """Measure calls and vectors a second, and the median and 99th percentile of the latency."""
    requests = make_requests(batch, k)
    times: list[float] = []
    async with grpc.aio.insecure_channel(target, options=OPTIONS) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/Search"
        )

        for request in requests[:8]:
            await call(request)

        started = time.perf_counter()
        ends = started + seconds

        async def ask(first: int) -> None:
            number = first
            while (begun := time.perf_counter()) < ends:
                await call(requests[number % NUM_REQUESTS])
                times.append(time.perf_counter() - begun)
                number += 1

        await asyncio.gather(*(ask(number) for number in range(concurrency)))
        took = time.perf_counter() - started

    low, high = np.percentile(times, [50, 99])
    return {
        "calls_per_second": len(times) / took,
        "vectors_per_second": batch * len(times) / took,
        "p50_ms": 1000 * low,
        "p99_ms": 1000 * high,
    }


async def echo(answer: bytes) -> None:
    """Serve one answer until killed."""

    async def handle(_: bytes, __: object) -> bytes:
        return answer

    server = grpc.aio.server(options=OPTIONS)
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Search": grpc.unary_unary_rpc_method_handler(handle)
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))

    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"serving on 127.0.0.1:{port}\n")
    sys.stdout.flush()
    await server.wait_for_termination()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["load", "echo"])
    parser.add_argument("where", help="HOST:PORT of a server, or the file with the echo's answer")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--k", type=int, default=10)
    options = parser.parse_args()

    if options.what == "echo":
        asyncio.run(echo(Path(options.where).read_bytes()))
        return

    found = asyncio.run(
        load(options.where, options.batch, options.concurrency, options.seconds, options.k)
    )
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
