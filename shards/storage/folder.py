"""A folder that is one finished thing: its summary is there exactly when everything else in it is
whole.

Who writes such a folder says so with `reopen`, writes what belongs into it, each file in one step,
and ends with `finish`, which removes what killed writers have left and writes the options and then
the summary. Who reads it can tell by the summary whether it is finished. One rename of a whole
folder was left out: it cannot replace a folder that is there, and object stores have none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shards.storage.documents import read_json, write_config, write_json
from shards.storage.files import exists, join, make_directory, remove, written_name
from shards.storage.names import list_names


def sweep(folder: str, is_mine: Callable[[str], bool]) -> None:
    """Remove temporary files that killed writers have left in `folder`, of names that `is_mine`
    knows.

    It is asked about names `without_globs`. Nobody must be writing these files any more. What was
    to become of a temporary file without a name, as earlier versions left them on file servers,
    cannot be known: these are removed too.
    """
    for name in list_names(folder):
        written = written_name(name)
        if written is not None and (not written or is_mine(written)):
            remove(join(folder, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The folder at `url` with the names of its two documents; making one touches nothing."""

    url: str
    summary_name: str
    config_name: str

    def make(self) -> None:
        """Make it where it is not there."""
        make_directory(self.url)

    def names(self) -> list[str]:
        """Names of everything in it, hidden names too."""
        return list_names(self.url)

    def place(self, name: str) -> str:
        """The URL of a file in it."""
        return join(self.url, name)

    def is_finished(self) -> bool:
        """Whether everything that belongs into it is there."""
        return exists(self.place(self.summary_name))

    def last_summary(self) -> dict[str, Any] | None:
        """The summary; of a folder that was reopened and not finished again, the one before; None
        where none was.
        """
        for name in (self.summary_name, self._aside):
            if exists(self.place(name)):
                summary: dict[str, Any] = read_json(self.place(name))
                return summary

        return None

    def reopen(self) -> None:
        """From now on the folder is unfinished; its last summary is put aside, under a hidden
        name.
        """
        if self.is_finished():
            write_json(self.place(self._aside), read_json(self.place(self.summary_name)))
            remove(self.place(self.summary_name))

    def discard(self, names: Iterable[str]) -> None:
        """Remove files of it."""
        for name in names:
            remove(self.place(name))

    def sweep(self, is_mine: Callable[[str], bool]) -> None:
        """Remove temporary files that killed writers have left in it; see `sweep`."""
        sweep(self.url, lambda name: name in (self.summary_name, self.config_name) or is_mine(name))

    def finish(self, config: Any, summary: Any) -> None:
        """Write the options and, last, the summary."""
        write_config(self.place(self.config_name), config)
        write_json(self.place(self.summary_name), summary)
        if exists(self.place(self._aside)):
            remove(self.place(self._aside))

    @property
    def _aside(self) -> str:
        return f".{self.summary_name}.before"
