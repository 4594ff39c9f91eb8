"""Nearest vectors by cosine: FAISS over unit vectors, exact while that is fast, approximate beyond.

Up to 100,000 vectors the index is flat, which means exact. Beyond that, the vectors are kept in
lists around centroids (IVF), and a search looks into ("probes") some of the lists. Beyond two
million vectors, each number is stored in eight bits.

The number of probes is not guessed: when the index is built, recall is measured against exact
search for vectors of the index, and the probes are doubled until the recall is high enough. That is
right for few neighbors. Where the probed lists hold fewer vectors than a query asks for, the query
is searched again with more and more probes.

Graphs (HNSW) were left out: their links take about as much memory as the vectors, and no vector can
be removed from a graph.

Shapes: N vectors, D numbers a vector, P queries, k neighbors.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actors.speaker_index.search.config import IndexConfig, Kind
from actors.speaker_index.search.kernels import load_faiss
from shards.config import ConfigError
from shards.storage.files import flush, temporary_name

MAX_FLAT, MAX_FULL_PRECISION = 100_000, 2_000_000
TRAINING_VECTORS_PER_LIST = 64
PROBED_QUERIES, PROBED_NEIGHBORS = 256, 10
SEED = 1234


@dataclass(frozen=True, slots=True)
class VectorIndex:
    """A built index; several threads may search it at once.

    `searched` is `cpu` itself, or the copy of `cpu` on the GPUs. `recall` is the measured
    recall@10, 1 for a flat index.
    """

    cpu: Any
    searched: Any
    kind: str
    recall: float

    @property
    def description(self) -> str:
        """The kind of index, for example `flat` or `ivf lists=1024 probes=16 recall@10=0.981`."""
        if self.kind == "flat":
            return self.kind
        return (
            f"{self.kind} lists={self.cpu.nlist} probes={self.cpu.nprobe} "
            f"recall@10={self.recall:.3f}"
        )

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places [P, k] and similarities [P, k] of the vectors most like unit `queries` [P, D].

        A place is a row of the indexed vectors, or -1 where k is larger than N.
        """
        similarities, places = self.searched.search(queries, k)
        if self.kind != "flat":
            self._search_on(queries, places, similarities)
        return places, similarities

    def _search_on(
        self,
        queries: NDArray[np.float32],
        places: NDArray[np.int64],
        similarities: NDArray[np.float32],
    ) -> None:
        """Search again, with more probes, for queries whose probed lists held too few vectors."""
        k, probes = places.shape[1], self.cpu.nprobe
        # Neighbors fill a row from the left: it is complete when the last one there can be is
        # found.
        last = min(k, self.cpu.ntotal) - 1

        while probes < self.cpu.nlist and len(short := np.flatnonzero(places[:, last] < 0)):
            probes = min(2 * probes, self.cpu.nlist)
            wider = load_faiss().SearchParametersIVF(nprobe=probes)
            similarities[short], places[short] = self.cpu.search(queries[short], k, params=wider)


def build_index(vectors: NDArray[np.float32], config: IndexConfig) -> VectorIndex:
    """Index unit vectors [N, D]. Raises ConfigError when `config` wants a GPU and there is none."""
    faiss = load_faiss()
    kind = _resolve(config.kind, len(vectors))
    width = vectors.shape[1]

    if kind == "flat":
        index = faiss.IndexFlatIP(width)
        index.add(vectors)
        return VectorIndex(index, _place(index, config), kind, 1.0)

    num_lists = _num_lists(len(vectors))
    coarse = faiss.IndexFlatIP(width)
    if kind == "ivf":
        index = faiss.IndexIVFFlat(coarse, width, num_lists, faiss.METRIC_INNER_PRODUCT)
    else:
        bits = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(
            coarse, width, num_lists, bits, faiss.METRIC_INNER_PRODUCT
        )

    # Centroids of length 1, like the vectors, so that lists are chosen by the cosine too.
    index.cp.spherical, index.cp.seed, index.cp.max_points_per_centroid = (
        True,
        SEED,
        TRAINING_VECTORS_PER_LIST,
    )

    index.train(vectors)
    index.add(vectors)
    recall = _probe(index, vectors, config.recall)
    return VectorIndex(index, _place(index, config), kind, recall)


def write_index_file(index: VectorIndex, path: Path) -> None:
    """Write the index so that its file appears as a whole, on the disk, or not at all."""
    temporary = path.with_name(temporary_name(path.name))
    load_faiss().write_index(index.cpu, str(temporary))
    flush(temporary)
    temporary.replace(path)


def read_index_file(path: Path, kind: str, recall: float, config: IndexConfig) -> VectorIndex:
    """Read what `write_index_file` wrote. FAISS trusts the file: check its digest before."""
    index = load_faiss().read_index(str(path))
    return VectorIndex(index, _place(index, config), kind, recall)


def exact_search(
    stored: NDArray[np.float32], queries: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Places and similarities [P, k] among unit vectors [N, D] without an index; k is at most N."""
    similarities, places = load_faiss().knn(
        queries, stored, k, metric=load_faiss().METRIC_INNER_PRODUCT
    )
    return places, similarities


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy [N, D] of the vectors at length 1.

    Lengths are computed in float64: squares of large float32 numbers would overflow in float32.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


def _resolve(kind: Kind, number: int) -> str:
    # One vector cannot be clustered, whatever kind was asked for.
    if kind != "auto":
        return kind if number > 1 else "flat"

    if number <= MAX_FLAT:
        return "flat"
    return "ivf" if number <= MAX_FULL_PRECISION else "ivf_sq8"


def _num_lists(number: int) -> int:
    """About four times the root of `number`, as a power of two, with 40 or more vectors a list."""
    wanted = 2 ** round(math.log2(4 * math.sqrt(number)))
    return max(1, min(wanted, number // 40))


def _probe(index: Any, vectors: NDArray[np.float32], wanted: float) -> float:
    """Double the probes until the recall is `wanted`, or all lists are probed; returns the recall.

    The recall is measured for vectors of the index: the share of a vector's true neighbors found.
    """
    rows = np.random.default_rng(SEED).choice(
        len(vectors), min(PROBED_QUERIES, len(vectors)), replace=False
    )
    queries, k = vectors[rows], min(PROBED_NEIGHBORS, len(vectors) - 1)
    truth, _ = exact_search(vectors, queries, k + 1)

    index.nprobe = 1
    while True:
        _, found = index.search(queries, k + 1)
        # Every query is a vector of the index and finds itself. That says nothing about recall, so
        # one more neighbor is asked for and one hit is not counted.
        hits = [len(np.intersect1d(*pair)) - 1 for pair in zip(truth, found, strict=True)]
        recall = float(np.mean(hits)) / k

        if recall >= wanted or index.nprobe >= index.nlist:
            return recall
        index.nprobe = min(2 * index.nprobe, index.nlist)


def _place(index: Any, config: IndexConfig) -> Any:
    """The index itself, or its copy on all GPUs. Raises ConfigError when there is no GPU."""
    if not config.gpu:
        return index

    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        raise ConfigError(
            "index.gpu: this FAISS sees no GPU; install a faiss-gpu wheel for your CUDA release in "
            "place of faiss-cpu, or leave the option out"
        )
    return faiss.index_cpu_to_all_gpus(index)
