"""FAISS, told what machine it runs on.

FAISS' wheels carry an OpenBLAS of 2021, which takes processors it does not know for a Prescott of
2004, and FAISS as installed does not multiply matrices for batches of queries at all. On a Sapphire
Rapids, 256 queries against 7,000 vectors of 192 numbers take 44 ms as installed, 20 ms through that
OpenBLAS, and 6 ms through its kernels for AVX-512. Which kernels to take is decided when the
library is loaded, so it has to be said before. Results are compared with numpy's once: kernels that
compute wrong (old ones did, on some processors) are not used.
"""

import functools
import logging
import os
import platform
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger(__name__)

CORE_TYPE = "OPENBLAS_CORETYPE"
# From this many queries on a matrix product is faster than a scan for each (measured at 1,000 to
# 100,000 vectors).
BLAS_QUERIES = 5
NEVER = 1 << 30
TOLERANCE = 1e-4


@functools.cache
def load_faiss() -> Any:
    """The module, with the fastest kernels that compute right here."""
    core = _core_type(_processor_flags())
    mine = core is not None and CORE_TYPE not in os.environ
    if core is not None and mine:
        os.environ[CORE_TYPE] = core
    logging.getLogger("faiss").setLevel(
        logging.WARNING
    )  # its loader tells of every build it does not find
    try:
        import faiss
    finally:
        if mine:
            del os.environ[CORE_TYPE]  # children choose for themselves
    faiss.cvar.distance_compute_blas_threshold = BLAS_QUERIES
    if not _computes_right(faiss):
        log.warning(
            "FAISS' OpenBLAS computes wrong with %s kernels; searching without it, which is slower",
            core,
        )
        faiss.cvar.distance_compute_blas_threshold = NEVER
    return faiss


def _core_type(flags: frozenset[str]) -> str | None:
    """OpenBLAS' name for kernels that a processor with these flags runs; None leaves the choice to
    OpenBLAS.
    """
    if platform.machine() != "x86_64":
        return None
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def _processor_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _computes_right(faiss: Any) -> bool:
    """Whether similarities of some batch sizes and widths are numpy's."""
    generator = np.random.default_rng(0)
    for number, width in ((BLAS_QUERIES, 64), (64, 192), (130, 257)):
        stored = generator.standard_normal((300, width)).astype(np.float32)
        queries = generator.standard_normal((number, width)).astype(np.float32)
        found, _ = faiss.knn(queries, stored, 3, metric=faiss.METRIC_INNER_PRODUCT)
        expected = -np.sort(-(queries @ stored.T), axis=1)[:, :3]
        if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * width):
            return False
    return True
