"""The features of a corpus, by shard and key or offset, read where they lie.

A folder of feature files is matched with the shards that somebody wants to use now. A shard that
has changed since, or that has no features, is refused: features of other sound would give figures
that nobody could tell from true ones.

Shapes: T frames, X extra tokens, L layers, D width.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.storage.files import FileIdentity, join, list_files
from shards.storage.names import list_names, relative_names
from shards.storage.open_files import OpenFiles
from shards.tables.features import (
    SUFFIX,
    FeatureHeader,
    FeatureInfo,
    FeatureRow,
    read_frames,
    read_header,
    read_tokens,
)

READ_THREADS = 16
MOST_OPEN = 64


@dataclass(frozen=True, slots=True)
class FeatureFile:
    """A feature file and its utterances, by key and by their offset in the shard."""

    url: str
    header: FeatureHeader
    by_key: Mapping[str, FeatureRow]
    by_offset: Mapping[int, FeatureRow]


class FeatureStore:
    """The features of all shards of a corpus, from any position.

    It can be sent to another process, which opens the files anew.
    """

    def __init__(self, files: Mapping[str, FeatureFile]) -> None:
        self._files = files  # by the URL of the shard
        self._open = OpenFiles(MOST_OPEN)

    @property
    def info(self) -> FeatureInfo:
        """What one of the files says; encoder, layers and width are the same in all."""
        return next(iter(self._files.values())).header.info

    def find(self, shard: str, place: str | int) -> FeatureRow | None:
        """The utterance with a key, or at an offset, of the shard at a URL; None if there is none.

        Its `error` says why it has no features, if it has none.
        """
        file = self._files[shard]
        return file.by_key.get(place) if isinstance(place, str) else file.by_offset.get(place)

    def read(
        self, shard: str, place: str | int, frames: slice = slice(None)
    ) -> NDArray[np.float16]:
        """The frames [T, L, D] of an utterance, or those in a slice.

        Raises ConfigError when the utterance has no features.
        """
        file = self._files[shard]
        return read_frames(self._open[file.url], file.header, self._row(shard, place), frames)

    def read_tokens(self, shard: str, place: str | int) -> NDArray[np.float16]:
        """The extra tokens [X, D] of an utterance.

        Raises ConfigError when the utterance has no features, or the files have no tokens.
        """
        file = self._files[shard]
        return read_tokens(self._open[file.url], file.header, self._row(shard, place))

    def _row(self, shard: str, place: str | int) -> FeatureRow:
        row = self.find(shard, place)
        if row is None or row.error is not None:
            reason = "it was not in the shard" if row is None else row.error
            raise ConfigError(f"{shard}: utterance {place!r} has no features: {reason}")
        return row


def list_features(folder: str) -> dict[str, FeatureHeader]:
    """The headers of all feature files of a folder, by URL.

    Raises ConfigError for a file that is damaged.
    """
    urls = [
        join(folder, name)
        for name in list_names(folder)
        if name.endswith(SUFFIX) and not name.startswith(".")
    ]
    with ThreadPoolExecutor(READ_THREADS) as pool:
        return dict(zip(urls, pool.map(read_header, urls), strict=True))


def open_features(folder: str, pattern: str) -> FeatureStore:
    """The features in `folder` of the shards that `pattern` names.

    Raises ConfigError when the folder holds features of several encoders, or lacks those of a
    shard, or when a shard has changed since its features were made.
    """
    headers = list_features(folder)
    if not headers:
        raise ConfigError(
            f"{folder}: the folder holds no features; run `emostream features --out {folder}` first"
        )
    _require_one_maker(folder, [header.info for header in headers.values()])

    identities = list_files(pattern)
    names = relative_names(pattern, identities)
    return FeatureStore(
        {
            identity.url: _file_of(folder, headers, identity, name)
            for identity, name in zip(identities, names, strict=True)
        }
    )


def _file_of(
    folder: str, headers: Mapping[str, FeatureHeader], identity: FileIdentity, name: str
) -> FeatureFile:
    again = f"run `emostream features --shards ... --out {folder}` again"
    # A shard is known by its URL, or by its name where the corpus has moved.
    mine = [url for url, head in headers.items() if head.info.shard_url == identity.url]
    mine = mine or [url for url, head in headers.items() if head.info.shard == name]
    if not mine:
        raise ConfigError(f"{folder}: holds no features of the shard {identity.url}; {again}")

    for url in mine:
        header, info = headers[url], headers[url].info
        if (info.shard_size, info.shard_version) == (identity.size, identity.version):
            return FeatureFile(
                url,
                header,
                # Of rows with one key, at most one has features, and it comes last.
                {row.key: row for row in sorted(header.rows, key=lambda row: row.error is None)},
                {row.offset: row for row in header.rows},
            )

    raise ConfigError(
        f"{folder}: the shard {identity.url} has changed since its features were made; {again}"
    )


def _require_one_maker(folder: str, infos: Sequence[FeatureInfo]) -> None:
    makers = {info.fingerprint: info for info in infos}
    if len(makers) > 1:
        found = ", ".join(f"{info.encoder} (layers {info.layers})" for info in makers.values())
        raise ConfigError(
            f"{folder}: got features of several encoders or choices of layers ({found}), expected "
            "one; give each its own folder"
        )
