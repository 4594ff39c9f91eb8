"""The check of Ray: its version and, when an address is given, the cluster there.

A process of its own connects to the cluster: `ray.init` has no time limit, prints to standard
output, and leaves threads behind when it fails. For the same reason, the answer comes back in a
file.
"""

import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.doctor.finding import Finding
from shards.storage.documents import read_json

_PROBE = """
import json, sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False)
nodes = [
    {"name": node["NodeManagerHostname"], "resources": node["Resources"]}
    for node in ray.nodes()
    if node["Alive"]
]
with open(sys.argv[2], "w") as answer:
    json.dump({"version": ray.__version__, "nodes": nodes}, answer)
ray.shutdown()
"""


def check_ray(address: str | None, timeout_seconds: float) -> Iterator[Finding]:
    """Check Ray's version here, and the nodes of the cluster at `address`."""
    try:
        version = importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("ray", "problem", "not installed", "pip install 'ray[default]'")
        return

    if address is None:
        yield Finding("ray", "ok", f"{version}; give --address to try a cluster")
        return

    yield Finding("ray", "ok", version)
    yield from _check_cluster(address, timeout_seconds)


def _check_cluster(address: str, timeout_seconds: float) -> Iterator[Finding]:
    answer = ask_cluster(address, timeout_seconds)

    if isinstance(answer, str):
        remedy = (
            f"ray status --address {address}  # and check RAY_AUTH_TOKEN or ~/.ray/auth_token, and "
            "the firewall"
        )
        yield Finding("ray cluster", "problem", f"{address}: {answer}", remedy)
        return
    yield Finding(
        "ray cluster", "ok", f"{address}: {len(answer['nodes'])} nodes, {_total(answer['nodes'])}"
    )

    for node in answer["nodes"]:
        yield Finding("ray node", "ok", f"{node['name']}: {_total([node])}")


def ask_cluster(address: str, timeout_seconds: float) -> dict[str, Any] | str:
    """Return the cluster's version and live nodes, or the reason why it did not answer in time."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [sys.executable, "-c", _PROBE, address, str(answer)]

        try:
            done = subprocess.run(  # noqa: S603 (our own program; the address is no code)
                command, capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired:
            return f"no answer within {timeout_seconds:g} s"

        if not answer.exists():
            said = [line for line in done.stderr.splitlines() if line.strip()]
            return said[-1][:300] if said else f"the probe ended with status {done.returncode}"

        found: dict[str, Any] = read_json(answer)
    return found


def _total(nodes: list[dict[str, Any]]) -> str:
    amounts = {
        name: sum(node["resources"].get(name, 0) for node in nodes)
        for name in ("CPU", "GPU", "memory")
    }
    return f"{amounts['CPU']:g} CPUs, {amounts['GPU']:g} GPUs, {amounts['memory'] / 2**30:.0f} GiB"
