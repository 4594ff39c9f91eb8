"""FAISS with the fastest kernels that this machine's processor has.

FAISS' wheels carry an OpenBLAS of 2021. On a processor that it does not know, it uses the kernels
for a Prescott of 2004. Moreover, FAISS as installed does not use matrix products for batches of
queries at all. On a Sapphire Rapids, 256 queries against 7,000 vectors of 192 numbers take 44 ms as
installed, 20 ms with that OpenBLAS, and 6 ms with its kernels for AVX-512. OpenBLAS chooses its
kernels while it is loaded, so the choice must be made before `import faiss`. Afterwards a few
results are compared with numpy's: kernels that compute wrong, as old ones did on some processors,
are not used.
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
# From this many queries on, one matrix product is faster than a scan for each query (measured at
# 1,000 to 100,000 vectors).
BLAS_QUERIES = 5
NEVER = 1 << 30
TOLERANCE = 1e-4


@functools.cache
def load_faiss() -> Any:
    """The module `faiss`, with the fastest kernels whose results are right on this machine."""
    core = _core_type(_processor_flags())
    # Whoever runs the program may have chosen the kernels: that choice is kept.
    mine = core is not None and CORE_TYPE not in os.environ
    if core is not None and mine:
        os.environ[CORE_TYPE] = core

    # FAISS' loader logs every one of its builds that is not installed.
    logging.getLogger("faiss").setLevel(logging.WARNING)
    try:
        import faiss
    finally:
        # A child process inherits the environment, but must choose its kernels for itself.
        if mine:
            del os.environ[CORE_TYPE]

    faiss.cvar.distance_compute_blas_threshold = BLAS_QUERIES
    if not _computes_right(faiss):
        log.warning(
            "FAISS' OpenBLAS computes wrong with %s kernels; searching without OpenBLAS, which is "
            "slower",
            core,
        )
        faiss.cvar.distance_compute_blas_threshold = NEVER

    return faiss


def _core_type(flags: frozenset[str]) -> str | None:
    """OpenBLAS' name for kernels that run on a processor with these flags.

    None leaves the choice to OpenBLAS.
    """
    if platform.machine() != "x86_64":
        return None

    if {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"} <= flags:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= flags else None


def _processor_flags() -> frozenset[str]:
    # A system that is not Linux has no such file; OpenBLAS then chooses by itself.
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()

    lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())


def _computes_right(faiss: Any) -> bool:
    """Whether FAISS and numpy agree on the best similarities, for some batch sizes and widths."""
    generator = np.random.default_rng(0)
    for number, width in ((BLAS_QUERIES, 64), (64, 192), (130, 257)):
        stored = generator.standard_normal((300, width)).astype(np.float32)
        queries = generator.standard_normal((number, width)).astype(np.float32)

        found, _ = faiss.knn(queries, stored, 3, metric=faiss.METRIC_INNER_PRODUCT)
        expected = -np.sort(-(queries @ stored.T), axis=1)[:, :3]
        if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE * width):
            return False
    return True
