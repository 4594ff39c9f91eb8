"""Progress for people: a bar with rate and time left on a terminal, a line every ten seconds elsewhere.

It writes to standard error; machine-readable output goes to files, because Ray prints notices of its own.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_INTERVAL_SECONDS = 10.0

Report = Callable[[int, int], None]


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[Callable[..., None]]:
    """Yield `update(done, total, note="")`; `note` says what the bar's own numbers cannot, such as a rate."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_writer(what, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, note="")

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield update


def _line_writer(what: str, unit: str) -> Callable[..., None]:
    started = time.monotonic()
    last = started

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_INTERVAL_SECONDS and done < total:
            return
        last = now
        left = f", {(now - started) / done * (total - done):.0f} s left" if 0 < done < total else ""
        sys.stderr.write(f"{what}: {done} of {total} {unit} after {now - started:.0f} s{left} {note}".rstrip() + "\n")

    return update
