"""Counts how the code is built: sizes, air, and the files that a training loss passes through.

    python -m tests.benchmarks.structure               # of this checkout
    python -m tests.benchmarks.structure --root OTHER  # of another, such as the last release

Sizes and air are counted in the source of the product's folders, blank lines and comments as
tokens. The files of a loss are those in which a function ran in the training thread: from the
command to the first loss, and within the call of the model that gave it.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDERS = ("shards", "trainers", "actors", "cluster")
LONG_BODY_LINES = 10


def main() -> int:
    """Print one line for each figure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=Path.cwd())
    parser.add_argument("--trace", nargs=2, metavar=("SHARDS", "OUT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    if arguments.trace:
        json.dump(trace_loss(*arguments.trace), sys.stdout)
        return 0

    for name, value in {
        **source_figures(arguments.root),
        **loss_figures(arguments.root.resolve()),
    }.items():
        sys.stdout.write(f"{name:56s} {value}\n")
    return 0


def source_figures(root: Path) -> dict[str, str]:
    """Count what can be counted without running anything."""
    files = sorted(
        path
        for folder in FOLDERS
        for path in (root / folder).rglob("*.py")
        if path.read_text().strip()
    )
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in files}

    functions = [(path, node) for path in files for node in _functions(path)]

    total = sum(map(len, lines.values()))
    blank = sum(not line.strip() for found in lines.values() for line in found)
    comments = sum(_comment_lines(path) for path in files)

    airless = [
        _has_no_blank(lines[path], *body)
        for path, node in functions
        if (body := _long_body(node)) is not None
    ]

    rooms = {
        folder: sum(path.parent == folder for path in files)
        for folder in {path.parent for path in files}
    }
    fullest = max(rooms, key=lambda folder: rooms[folder])
    longest = max(files, key=lambda path: len(lines[path]))
    path, function = max(functions, key=lambda found: _length(found[1]))

    return {
        "modules": str(len(files)),
        "median lines of a module": str(sorted(map(len, lines.values()))[len(files) // 2]),
        "longest module": f"{longest.relative_to(root)}, {len(lines[longest])} lines",
        "longest function": (
            f"{function.name} in {path.relative_to(root)}, {_length(function)} lines"
        ),
        "most modules in one folder": f"{fullest.relative_to(root)}, {rooms[fullest]}",
        f"bodies of {LONG_BODY_LINES} lines or more without a blank line": (
            _share(sum(airless), len(airless))
        ),
        "blank lines": _share(blank, total),
        "own-line comments": _share(comments, total),
        "longest line": str(max(len(line) for found in lines.values() for line in found)),
    }


def loss_figures(root: Path) -> dict[str, str]:
    """Count the files that a loss of `finetune` passes through, by running one step in `root`."""
    from tests.worlds.training import write_training_world

    with tempfile.TemporaryDirectory() as folder:
        shards = write_training_world(Path(folder) / "packed")
        command = [
            sys.executable,
            str(Path(__file__).resolve()),
            "--trace",
            shards,
            f"{folder}/run",
        ]
        found = subprocess.run(
            command, cwd=root, capture_output=True, text=True, check=True, env=_environment(root)
        )

    counted = json.loads(found.stdout.splitlines()[-1])
    return {
        "files from the command to the first loss of finetune": str(len(counted["command"])),
        "files within the call of the model": (
            f"{len(counted['call'])}: {', '.join(counted['call'])}"
        ),
    }


def trace_loss(shards: str, out: str) -> dict[str, list[str]]:
    """Train for one step, and return the project's files in which a function ran.

    `command` are those until the first loss, `call` those within the model's call.
    """
    import deepspeed

    root, files, call = Path.cwd(), set[str](), set[str]()
    forward = deepspeed.DeepSpeedEngine.forward

    def note(seen: set[str]) -> Any:
        def profile(frame: Any, event: str, _: Any) -> None:
            path = Path(frame.f_code.co_filename)
            if (
                event == "call"
                and path.is_relative_to(root)
                and path.relative_to(root).parts[0] in FOLDERS
            ):
                seen.add(str(path.relative_to(root)))

        return profile

    def traced(engine: Any, *inputs: Any, **named: Any) -> Any:
        sys.setprofile(note(call))
        try:
            return forward(engine, *inputs, **named)
        finally:
            sys.setprofile(None)

    deepspeed.DeepSpeedEngine.forward = traced
    from cluster.cli import main as command

    options = ["train", "finetune", "--shards", shards, "--out", out, "--set", "engine.num_steps=1"]
    with contextlib.redirect_stdout(io.StringIO()):
        sys.setprofile(note(files))
        status = command(options)
    if status:
        raise SystemExit(status)
    return {"command": sorted(files | call), "call": sorted(call)}


def _functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return int(node.end_lineno or 0) - node.lineno + 1


def _long_body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int] | None:
    """Find the first and last line of a body of ten lines or more, without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    if not body:
        return None
    first, last = body[0].lineno, int(node.end_lineno or 0)
    return (first, last) if last - first + 1 >= LONG_BODY_LINES else None


def _has_no_blank(lines: list[str], first: int, last: int) -> bool:
    return all(line.strip() for line in lines[first - 1 : last])


def _comment_lines(path: Path) -> int:
    """Count the lines that are nothing but a comment."""
    with path.open("rb") as stream:
        tokens = list(tokenize.tokenize(stream.readline))
    return sum(
        token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
        for token in tokens
    )


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%} ({part} of {whole})"


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


if __name__ == "__main__":
    sys.exit(main())
