"""How a long job reports its progress, independent of where the progress is shown."""

from typing import Protocol


class OnProgress(Protocol):
    """A function that a long job calls now and then, and at its end.

    `done` of `total` units of work are done, for example shards. `note` says what these numbers
    cannot say, for example a rate.
    """

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


def unseen(done: int, total: int, note: str = "") -> None:
    """Show no progress: for jobs whose progress nobody watches."""
