"""Progress for people: a bar on a terminal, a line every ten seconds elsewhere.

Both show the rate and the time left. They go to standard error; machine-readable output goes to
files, because Ray prints notices of its own on standard output.
"""

import contextlib
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from shards.progress import OnProgress

LINE_INTERVAL_SECONDS = 10.0


@contextlib.contextmanager
def progress(what: str, unit: str) -> Iterator[OnProgress]:
    """Yield `update(done, total, note="")`, which shows how far the work is.

    `note` is for what the bar does not count itself, such as a rate of utterances.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_writer(what, unit)
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=None, rate="", note="")
        started = time.monotonic()

        def update(done: int, total: int, note: str = "") -> None:
            bar.update(
                task,
                completed=done,
                total=total,
                rate=rate_text(done, time.monotonic() - started),
                note=note,
            )

        yield update


def rate_text(done: int, seconds: float) -> str:
    """Return a rate as text: `3.2 a second`, or `40.0 a minute` for one below one a second.

    The text is empty as long as nothing is done.
    """
    if done == 0 or seconds <= 0:
        return ""
    return (
        f"{done / seconds:.1f} a second"
        if done >= seconds
        else f"{60 * done / seconds:.1f} a minute"
    )


def _line_writer(what: str, unit: str) -> OnProgress:
    started = time.monotonic()
    last = started
    is_over = False

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal last, is_over
        now = time.monotonic()
        if is_over or (now - last < LINE_INTERVAL_SECONDS and done < total):
            return

        last, is_over = now, done >= total
        seconds = now - started
        parts = [
            f"{what}: {done} of {total} {unit} after {seconds:.0f} s",
            rate_text(done, seconds),
        ]
        parts.append(f"{seconds / done * (total - done):.0f} s left" if 0 < done < total else "")

        sys.stderr.write(f"{', '.join(filter(None, parts))} {note}".rstrip() + "\n")

    return update
