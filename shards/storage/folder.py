"""A folder that is finished as a whole: while its summary is there, everything else is complete.

A writer first calls `reopen`, which takes the summary away. It then writes the files of the folder,
each file in one step, and removes with `sweep` what killed writers have left. Last it calls
`finish`, which writes the options and then the summary. A reader sees by the summary that the
folder is finished. Renaming a whole folder into place was left out: a rename cannot replace a
folder that exists, and object stores cannot rename folders.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from shards.storage.documents import read_json, write_config, write_json
from shards.storage.files import exists, join, make_directory, remove, written_name
from shards.storage.names import list_names


def sweep(folder: str, is_mine: Callable[[str], bool]) -> None:
    """Remove the temporary files that killed writers have left in `folder`.

    A temporary file is removed when `is_mine` answers True for the name that the file was to get,
    `without_globs`. Nobody may be writing such a file any more. A temporary file that does not tell
    its name, as earlier releases left them on file servers, is always removed, because nobody can
    know whose it is.
    """
    for name in list_names(folder):
        written = written_name(name)
        if written is not None and (not written or is_mine(written)):
            remove(join(folder, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The folder at `url` and the names of its two documents.

    Creating a `Folder` object reads and writes nothing.
    """

    url: str
    summary_name: str
    config_name: str

    def make(self) -> None:
        """Make the directory if it does not exist."""
        make_directory(self.url)

    def names(self) -> list[str]:
        """The names of everything in the folder, including hidden names."""
        return list_names(self.url)

    def place(self, name: str) -> str:
        """The URL of the file `name` in the folder."""
        return join(self.url, name)

    def is_finished(self) -> bool:
        """Whether the folder is finished, which its summary shows."""
        return exists(self.place(self.summary_name))

    def last_summary(self) -> dict[str, Any] | None:
        """The latest summary, even while the folder is reopened; None if there never was one."""
        for name in (self.summary_name, self._aside):
            if exists(self.place(name)):
                summary: dict[str, Any] = read_json(self.place(name))
                return summary

        return None

    def reopen(self) -> None:
        """Mark the folder as unfinished, and keep its summary under a hidden name."""
        # The copy is written before the original is removed: a process that is killed between the
        # two loses no summary. A folder that is unfinished already keeps the copy that it has.
        if self.is_finished():
            write_json(self.place(self._aside), read_json(self.place(self.summary_name)))
            remove(self.place(self.summary_name))

    def discard(self, names: Iterable[str]) -> None:
        """Remove the files `names` from the folder."""
        for name in names:
            remove(self.place(name))

    def sweep(self, is_mine: Callable[[str], bool]) -> None:
        """Remove what killed writers have left of the documents and of the files of `is_mine`.

        See the function `sweep`.
        """
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
