"""Compares the speaker index as a service with FAISS in the process, and with idle gRPC.

`python -m tests.benchmarks.serving.speaker_service [--sizes 7000 100000 1000000] [--repeats 5]
[--mixed-seconds 600]`

Server and client have a core each. Every figure is the median of the repeats, in which the sides
take turns. There are two limits. One is FAISS, which searches the same vectors in batches of 256 on
one core, as installed and with the kernels that the server gives it
(`actors/speaker_index/search/kernels.py`). The other is a server that answers every call with the
bytes that the index would answer. The service is compared with the lower of them, and with both in
turn, which is all that one core can do: 1 / (1 / echo + 1 / FAISS). milvus-lite, if it is
installed, is measured for reference.

Beyond 100,000 speakers the index is approximate, and its recall@10 is counted against exact search.
Memory is that of the server's process, with shared pages counted once. Reload is from the kept
index, build is from the table alone.

The mixed part writes and reads from many clients at once and checks that every answer is of one
whole generation.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil

from actors.speaker_index.search.vector_index import exact_search, unit
from actors.speaker_index.serving.calls import SERVICE
from cluster.serving.client import LabelStatistics, Speaker, SpeakerClient
from tests import ROOT
from tests.benchmarks.measuring import MIB, machine, print_result
from tests.benchmarks.serving.speaker_load import OPTIONS, QUERY_SEED, make_requests
from tests.benchmarks.serving.speaker_vectors import FINGERPRINT, WIDTH, make_vectors, write_table

SERVER_CORE, CLIENT_CORE = 0, 1
K = 10
LOADS = {"unary": (1, 64), "batched": (256, 4)}  # vectors a call, calls at once
FAISS_BATCH = 256
RECALL_QUERIES = 500
FAISS_CODE = """
import json, sys, time
import numpy as np
from actors.speaker_index.search.vector_index import unit
from tests.benchmarks.serving.speaker_vectors import make_vectors
kernels, number = sys.argv[1], int(sys.argv[2])
if kernels == "ours":
    from actors.speaker_index.search.kernels import load_faiss
    faiss = load_faiss()
else:
    import faiss
faiss.omp_set_num_threads(1)
index = faiss.IndexFlatIP({width})
index.add(unit(make_vectors(number, 3)))
queries = unit(make_vectors({batch} * 8, {seed}))
rates = []
index.search(queries[:{batch}], {k})
started = time.perf_counter()
searched = 0
while time.perf_counter() - started < float(sys.argv[3]):
    first = searched % len(queries)
    index.search(queries[first : first + {batch}], {k})
    searched += {batch}
print(json.dumps(searched / (time.perf_counter() - started)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[7_000, 100_000, 1_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds of every measurement")
    parser.add_argument("--mixed-seconds", type=float, default=600.0)
    options = parser.parse_args()

    sys.stdout.write(
        f"{machine()}; server and client on a core each, medians of {options.repeats}\n"
    )

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in options.sizes:
            write_table(str(folder / f"{size}.parquet"), size)
            figures[str(size)] = measure(folder, size, options)
        if options.mixed_seconds:
            figures["mixed"] = mixed(folder, options.mixed_seconds)

    print_result("speaker_service", figures)


def measure(folder: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure everything at one number of speakers."""
    begun = time.perf_counter()
    with serving(folder, size) as (target, process):
        build = time.perf_counter() - begun
        described = describe(target)
        memory = psutil.Process(process.pid).memory_full_info().pss
        answers = {name: first_answer(target, batch) for name, (batch, _) in LOADS.items()}
        recall = recall_of(target, size)

    figures: dict[str, Any] = {
        "index": described["index_kind"],
        "build_seconds": build,
        "recall": recall,
    }

    begun = time.perf_counter()
    rounds: dict[str, list[Mapping[str, float]]] = {}
    with serving(folder, size) as (target, _):
        figures["reload_seconds"] = time.perf_counter() - begun
        for _ in range(options.repeats):
            for name, (batch, concurrency) in LOADS.items():
                rounds.setdefault(f"service {name}", []).append(
                    load(target, batch, concurrency, options.seconds)
                )
                with echoing(folder, answers[name]) as other:
                    rounds.setdefault(f"echo {name}", []).append(
                        load(other, batch, concurrency, options.seconds)
                    )

    figures |= {name: _medians(found) for name, found in rounds.items()}
    figures["bytes_per_speaker"] = memory / size
    figures["faiss"] = {side: in_process(side, size, options) for side in ("as installed", "ours")}
    figures["milvus_lite"] = milvus_lite(folder, size, options.seconds)

    _print(size, figures)
    return figures


@contextmanager
def serving(folder: Path, size: int) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run `emostream serve` on its core; yields where it listens."""
    table, data = f"{folder}/{size}.parquet", f"{folder}/data-{size}"
    command = [
        "-m",
        "cluster",
        "serve",
        "--speakers",
        table,
        "--data",
        data,
        "--port",
        "0",
        "--threads",
        "1",
    ]

    with started(command, folder) as found:
        yield found


@contextmanager
def echoing(folder: Path, answer: bytes) -> Iterator[str]:
    """Run the echo on the server's core."""
    (folder / "answer").write_bytes(answer)
    with started(
        ["-m", "tests.benchmarks.serving.speaker_load", "echo", f"{folder}/answer"], folder
    ) as (target, _):
        yield target


@contextmanager
def started(
    arguments: Sequence[str], folder: Path
) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {SERVER_CORE}),
        )

    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line.startswith("serving"):
            raise RuntimeError(f"{' '.join(arguments)}: {(folder / 'log').read_text()[-2000:]}")
        yield f"127.0.0.1:{line.rpartition(':')[2].strip()}", process
    finally:
        process.terminate()
        process.wait()


def load(target: str, batch: int, concurrency: int, seconds: float) -> Mapping[str, float]:
    """Measure what a client on its own core reaches."""
    options = [
        "--batch",
        str(batch),
        "--concurrency",
        str(concurrency),
        "--seconds",
        str(seconds),
        "--k",
        str(K),
    ]
    said = _on_core(
        CLIENT_CORE, ["-m", "tests.benchmarks.serving.speaker_load", "load", target, *options]
    )
    figures: Mapping[str, float] = json.loads(said)

    return figures


def in_process(kernels: str, size: int, options: argparse.Namespace) -> float:
    """Measure the vectors a second of FAISS' exact search on one core."""
    code = FAISS_CODE.format(width=WIDTH, batch=FAISS_BATCH, seed=QUERY_SEED, k=K)

    rates = [
        float(_on_core(SERVER_CORE, ["-c", code, kernels, str(size), str(options.seconds)]))
        for _ in range(options.repeats)
    ]
    return statistics.median(rates)


def milvus_lite(folder: Path, size: int, seconds: float) -> float | None:
    """Measure vectors a second in batches of 256; None if milvus-lite is not installed."""
    try:
        from pymilvus import MilvusClient
    except ImportError:
        return None

    client = MilvusClient(f"{folder}/milvus-{size}.db")
    client.create_collection(
        "speakers", dimension=WIDTH, metric_type="COSINE", consistency_level="Strong"
    )

    vectors = make_vectors(size, 3)
    for start in range(0, size, 5000):
        rows = [
            {"id": start + row, "vector": vector}
            for row, vector in enumerate(vectors[start : start + 5000])
        ]
        client.insert("speakers", rows)

    queries = list(make_vectors(FAISS_BATCH, QUERY_SEED))
    searched, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        client.search("speakers", queries, limit=K)
        searched += len(queries)

    client.close()
    return searched / (time.perf_counter() - begun)


def first_answer(target: str, batch: int) -> bytes:
    """Return the index's answer to the first request of a load."""
    with grpc.insecure_channel(target, options=OPTIONS) as channel:
        search: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/Search"
        )
        answer: bytes = search(make_requests(batch, K)[0], timeout=60)
    return answer


def describe(target: str) -> dict[str, Any]:
    with SpeakerClient(target) as client:
        return {"index_kind": client.describe().index_kind}


def recall_of(target: str, size: int) -> float:
    """Compute the share of the ten most alike speakers that the service finds."""
    queries = make_vectors(RECALL_QUERIES, QUERY_SEED)
    truth, _ = exact_search(unit(make_vectors(size, 3)), unit(queries), K)

    with SpeakerClient(target, fingerprint=FINGERPRINT, timeout_seconds=60) as client:
        found = client.search(queries, K).neighbours

    hits = [
        len({int(neighbor.id.rpartition("-")[2]) for neighbor in one} & set(expected.tolist()))
        for one, expected in zip(found, truth, strict=True)
    ]
    return float(np.mean(hits)) / K


def mixed(folder: Path, seconds: float) -> dict[str, float]:
    """Write and read together, and count the answers that mix versions.

    Five speakers are always written as one.
    """
    size, ends = 7_000, time.monotonic() + seconds
    write_table(str(folder / f"{size}.parquet"), size)
    center = make_vectors(1, 12345)[0] * 1000
    names = [f"five-{number}" for number in range(5)]
    versions: dict[int, float] = {}
    seen: list[tuple[int, frozenset[float], int]] = []

    def write(client: SpeakerClient) -> None:
        version = 0.0
        while time.monotonic() < ends:
            version += 1
            labels = {"arousal": LabelStatistics(version, 0.0, 1)}
            speakers = [Speaker(id=name, vector=center, labels=labels) for name in names]
            versions[client.upsert(speakers)] = version

    def write_others(client: SpeakerClient, seed: int) -> None:
        number = 0
        while time.monotonic() < ends:
            number += 1
            vector = make_vectors(1, seed * 1_000_000 + number)[0]
            client.upsert([Speaker(id=f"other-{seed}-{number % 500}", vector=vector)])
            if number % 10 == 0:
                client.delete([f"other-{seed}-{(number + 250) % 500}"])

    def read(client: SpeakerClient) -> None:
        while time.monotonic() < ends:
            result = client.search(center, 5)
            five = [neighbor for neighbor in result.neighbours[0] if neighbor.id in names]
            means = frozenset(neighbor.labels["arousal"].mean for neighbor in five)
            seen.append((result.generation, means, len(five)))

    with serving(folder, size) as (target, _):
        clients = [
            SpeakerClient(target, fingerprint=FINGERPRINT, timeout_seconds=30) for _ in range(12)
        ]
        threads = [threading.Thread(target=write, args=(clients[0],))]
        threads += [
            threading.Thread(target=write_others, args=(client, n))
            for n, client in enumerate(clients[1:4])
        ]
        threads += [threading.Thread(target=read, args=(client,)) for client in clients[4:]]

        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        generation = clients[0].describe().generation

    first = min(versions)
    torn = [one for one in seen if one[0] >= first and (one[2] != 5 or len(one[1]) != 1)]
    wrong = [one for one in seen if one[0] in versions and one[1] != {versions[one[0]]}]

    figures = {
        "seconds": seconds,
        "reads": len(seen),
        "writes": generation - 1,
        "torn": len(torn) + len(wrong),
    }

    sys.stdout.write(
        f"mixed, {seconds:.0f} s: {len(seen)} reads and {generation - 1} writes by 12 clients; "
        f"{figures['torn']:.0f} answers of no whole generation\n"
    )
    return figures


def _on_core(core: int, arguments: Sequence[str]) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    return done.stdout.strip().splitlines()[-1]


def _medians(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


def _print(size: int, figures: Mapping[str, Any]) -> None:
    write, total = sys.stdout.write, figures["bytes_per_speaker"] * size / MIB

    write(
        f"\n{size} speakers: {figures['index']}, recall@10 {figures['recall']:.3f}; "
        f"{figures['bytes_per_speaker']:.0f} bytes a speaker ({total:.0f} MiB); from the table "
        f"{figures['build_seconds']:.1f} s, again {figures['reload_seconds']:.1f} s\n"
    )

    for side, rate in figures["faiss"].items():
        write(f"  exact FAISS in the process, {side}: {rate:.0f} vectors a second\n")

    for name in LOADS:
        service, echo = figures[f"service {name}"], figures[f"echo {name}"]["vectors_per_second"]
        rate = service["vectors_per_second"]
        write(
            f"  {name}: {rate:.0f} vectors a second, p50 {service['p50_ms']:.2f} ms, p99 "
            f"{service['p99_ms']:.2f} ms\n"
        )
        for side, faiss in figures["faiss"].items():
            write(
                f"    {rate / faiss:.2f} of FAISS {side}, {rate / echo:.2f} of the echo, "
                f"{rate / min(faiss, echo):.2f} of the lower, {rate * (1 / echo + 1 / faiss):.2f} "
                "of both in turn\n"
            )

    if figures["milvus_lite"] is not None:
        write(f"  milvus-lite in the process: {figures['milvus_lite']:.0f} vectors a second\n")


if __name__ == "__main__":
    main()
