"""How long work tells how far it is; without saying where that is shown."""

from typing import Protocol


class OnProgress(Protocol):
    """Called now and then, and at the end: `done` of `total` units, and what the numbers cannot
    say.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def unseen(done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""
