"""The house's rule on imports, checked on the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("shards", "trainers", "actors", "cluster", "protos")
MAY_IMPORT = {
    "protos": set(),
    "shards": {"protos"},
    "trainers": {"shards", "protos"},
    "actors": {"shards", "trainers", "protos"},
    "cluster": {"shards", "trainers", "actors", "protos"},
}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported_modules(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module)
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package: str) -> None:
    """A package imports only those below it: cluster -> actors -> trainers -> shards, and anyone protos."""
    forbidden = set(PACKAGES) - MAY_IMPORT[package] - {package}
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources(package)
        for module in imported_modules(path)
        if module.split(".")[0] in forbidden
    }
    assert not found


def test_shards_knows_neither_ray_nor_torch() -> None:
    """Readers stay small, selection runs anywhere: only the loader hands out tensors, and nothing there imports it."""
    heavy = {"ray", "torch", "transformers"}
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("shards")
        for module in imported_modules(path)
        if module.split(".")[0] in heavy or module == "shards.loading.loader"
        if not (path.name == "loader.py" and module.startswith("torch"))
    }
    assert not found


def test_ray_only_in_actor_files() -> None:
    """Plain classes hold the logic: in actors only files named *_actor.py import Ray, and trainers never do."""
    found = {
        str(path.relative_to(ROOT))
        for package in ("actors", "trainers")
        for path in sources(package)
        if not path.name.endswith("_actor.py") and "ray" in {module.split(".")[0] for module in imported_modules(path)}
    }
    assert not found


def test_actors_take_only_models_from_trainers() -> None:
    """Workers need architectures, not training code."""
    found = {
        f"{path.relative_to(ROOT)} imports {module}"
        for path in sources("actors")
        for module in imported_modules(path)
        if module.split(".")[0] == "trainers" and not module.startswith("trainers.models")
    }
    assert not found


def test_reader_process_loads_neither_torch_nor_transformers() -> None:
    """What a reader imports pulls in no torch, not even indirectly."""
    code = "import sys, actors.reading.reader; print([m for m in ('torch', 'transformers', 'ray') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
