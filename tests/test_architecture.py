"""The project's rules on imports hold in the source: which room may know which, and load what.

A room is a folder or a file. A rule names rooms from the ground up. A room may import rooms of
lower floors, but neither its neighbors on the same floor nor those above. Imports count wherever
they stand: at the top, within a function, or only for the type checker.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

import networkx
import pytest

from tests import ROOT

PACKAGES = ("shards", "trainers", "actors", "cluster", "protos")

# Folder -> its floors from the ground up; a name is a folder or, where there is none, a file. `.`
# stands for all the files of the folder itself that are not named.
FLOORS: Mapping[str, Sequence[set[str]]] = {
    "": [{"protos"}, {"shards"}, {"trainers"}, {"actors"}, {"cluster"}],
    "shards": [
        {"."},
        {"storage", "samples", "media"},
        {"tar", "tables"},
        {"importing", "selection", "loading", "speakers", "synthetic"},
        {"packing"},
    ],
    "trainers": [
        {"settings", "task", "models"},
        {"engine", "preparation"},
        {"evaluation"},
        {"teachers", "recipes", "probing"},
        {"config"},
        {"resuming"},
        {"training"},
    ],
    "trainers/models": [
        {"parts", "losses"},
        {"classifiers"},
        {"encoders"},
        {"personal", "two_stage"},
        {"."},
    ],
    "actors": [
        {"reading", "inference"},
        {"work"},
        {"labeling", "embedding", "predicting"},
        {"features"},
    ],
    "actors/speaker_index": [{"errors"}, {"search"}, {"wire"}, {"storage"}, {"serving"}],
    "cluster": [
        {"nodes", "pages", "progress", "exit_status"},
        {"jobs", "training", "comparing", "serving"},
        {"demo", "probing"},
        {"command_table"},
        {"cli"},
        {"__main__"},
    ],
}
# Rooms that no other of their folder knows, and that know none (but what an exit status means).
ALONE = {"actors": {"speaker_index"}, "cluster": {"doctor"}}
HEAVY = ("torch", "transformers", "deepspeed", "ray", "faiss")


@cache
def sources(package: str) -> tuple[Path, ...]:
    return tuple(
        sorted(
            path.relative_to(ROOT)
            for path in (ROOT / package).rglob("*.py")
            if "_pb2" not in path.name
        )
    )


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules that a file imports, by their dotted names.

    For `from package import module` this is the module.
    """
    names: set[str] = set()

    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found = {name for name in below if file_of(name) is not None}
            names.update(found or {node.module})

    return frozenset(names)


def file_of(module: str) -> Path | None:
    """Find the file of one of the project's modules; None for any other module."""
    path = Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if (ROOT / candidate).exists()), None)


def inner_imports(paths: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield (importing file, imported file) for every import of one of the project's modules."""
    for path in paths:
        for module in imported_modules(path):
            if (
                module.split(".")[0] in PACKAGES
                and (found := file_of(module)) is not None
                and found != path
            ):
                yield path, found


def room(path: Path, folder: str) -> str | None:
    """Return the part of `folder` in which a file lies, by the name that FLOORS uses.

    None for files elsewhere.
    """
    if not path.is_relative_to(folder) or path == Path(folder, "__init__.py"):
        return None

    part = path.relative_to(folder).parts[0]
    if not part.endswith(".py"):
        return part
    name = part.removesuffix(".py")
    return name if any(name in floor for floor in FLOORS[folder]) else "."


@pytest.mark.parametrize("folder", FLOORS)
def test_rooms_import_only_from_lower_floors(folder: str) -> None:
    """The order is cluster -> actors -> trainers -> shards, and each has floors of its own.

    Anyone may import protos.
    """
    floor_of = {name: number for number, floor in enumerate(FLOORS[folder]) for name in floor}

    wrong = set()
    for path, other in inner_imports([path for package in PACKAGES for path in sources(package)]):
        mine, theirs = room(path, folder), room(other, folder)

        if mine is None or theirs is None or mine == theirs:
            continue
        if ALONE.get(folder, set()) & {mine, theirs}:
            if theirs != "exit_status":
                wrong.add(f"{path} imports {other}, and one of them stands alone")
        elif floor_of[theirs] >= floor_of[mine]:
            wrong.add(f"{path} imports {other}")

    assert not wrong


def test_every_room_has_a_floor() -> None:
    """A new folder or file has a place in the rules, or the test above would not check it."""
    unknown = set()
    for folder in FLOORS:
        named = set[str]().union(*FLOORS[folder], ALONE.get(folder, set()))
        for path in (path for package in PACKAGES for path in sources(package)):
            found = room(path, folder)
            if found is not None and found not in named and path.name != "__init__.py":
                unknown.add(f"{path} in {folder or 'the house'}")
    assert not unknown


def test_no_files_import_each_other() -> None:
    """There is no circle of files, of any length."""
    graph = networkx.DiGraph(
        inner_imports([path for package in PACKAGES for path in sources(package)])
    )
    assert [
        sorted(map(str, circle))
        for circle in networkx.strongly_connected_components(graph)
        if len(circle) > 1
    ] == []


def test_shards_knows_neither_ray_nor_torch() -> None:
    """Only the loader hands out tensors, and nothing in shards imports it.

    So readers stay small and selection runs anywhere.
    """
    loader = Path("shards/loading/loader.py")
    found = {
        f"{path} imports {module}"
        for path in sources("shards")
        for module in imported_modules(path)
        if (module.split(".")[0] in HEAVY and path != loader) or file_of(module) == loader
    }
    assert not found


def test_ray_only_in_actor_files() -> None:
    """In actors only files named *_actor.py import Ray, and trainers never do."""
    found = {
        str(path)
        for package in ("actors", "trainers")
        for path in sources(package)
        if not path.name.endswith("_actor.py")
        and "ray" in {module.split(".")[0] for module in imported_modules(path)}
    }
    assert not found


def test_actors_take_only_models_from_trainers() -> None:
    """Workers need the architectures of trainers, but not its training code."""
    found = {
        f"{path} imports {other}"
        for path, other in inner_imports(sources("actors"))
        if other.is_relative_to("trainers") and not other.is_relative_to("trainers/models")
    }
    assert not found


def test_recipe_families_do_not_know_each_other() -> None:
    """Families share only what lies below them, and the engine knows none of them."""
    recipes = "trainers/recipes"
    found = set()

    for path, other in inner_imports([path for package in PACKAGES for path in sources(package)]):
        mine, theirs = (
            one.relative_to(recipes).parts[:-1] if one.is_relative_to(recipes) else ()
            for one in (path, other)
        )
        if theirs and theirs != mine and (mine or path.is_relative_to("trainers/engine")):
            found.add(f"{path} imports {other}")

    assert not found


def light_modules() -> list[str]:
    """Return every `config.py`, all of `settings/`, and the registry of recipes."""
    paths = [path for package in PACKAGES for path in sources(package)]
    light = [path for path in paths if path.name == "config.py" or path.parent.name == "settings"]
    return [
        ".".join(path.with_suffix("").parts)
        for path in [*light, Path("trainers/recipes/registry.py")]
    ]


@pytest.mark.parametrize(
    "modules",
    [
        ["actors.reading.reader"],
        light_modules(),
        ["cluster.cli", "cluster.training.train", "cluster.serving.serve"],
    ],
    ids=["a reader process", "options", "the command line"],
)
def test_what_must_start_fast_loads_nothing_heavy(modules: list[str]) -> None:
    """Nothing heavy is loaded, even indirectly, so readers stay small and help comes at once."""
    code = (
        f"import sys, {', '.join(modules)}; print([name for name in {HEAVY} if name in "
        "sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.strip() == "[]"
