"""Files that are read again and again: the few files that were used last stay open.

An open remote file holds a window of up to 8 MiB, so the number of open files is bounded.
"""

from collections import OrderedDict
from types import TracebackType
from typing import Self

from shards.storage.ranged_reader import RangedReader, open_ranged


class OpenFiles:
    """Readers by URL, of which at most `most` are open.

    A further reader closes the reader that was used longest ago.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._readers: OrderedDict[str, RangedReader] = OrderedDict()

    def __getitem__(self, url: str) -> RangedReader:
        """The reader of `url`, opened if necessary. Raises OSError when it cannot be opened."""
        if url not in self._readers:
            if len(self._readers) >= self._most:
                self._readers.popitem(last=False)[1].close()
            self._readers[url] = open_ranged(url)
        self._readers.move_to_end(url)

        return self._readers[url]

    def __getstate__(self) -> dict[str, object]:
        # Open files cannot be sent to another process, which opens its own.
        return {"_most": self._most, "_readers": OrderedDict()}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
