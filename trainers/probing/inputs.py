"""What a probe sees of each utterance: frames of feature files, or a column of tables.

Frames are read where they lie, by a few large reads, and kept as float16 while they fit a budget of
memory: an epoch then costs no reading, and a corpus of any size can be probed.

Shapes: N utterances, T frames, L layers, D width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from shards.storage.files import join, list_files
from shards.storage.names import list_names
from shards.storage.parquet import open_parquet
from shards.tables.feature_store import FeatureStore, open_features
from shards.tables.names import is_table_name
from shards.tables.predictions import REMEDY, read_info
from trainers.probing.config import OF_TOKENS, InputName, LayersName, ProbeConfig

CACHE_BYTES = 4 << 30
NUM_LAST = 4


class Inputs(Protocol):
    """The inputs of the utterances of an index, by row."""

    @property
    def num_layers(self) -> int:
        """The number L of layers that the head sees."""

    @property
    def is_scaled(self) -> bool:
        """Whether the numbers have units of their own, and must be brought to one scale."""

    def problem(self, row: int) -> str | None:
        """Why an utterance has no input, as "code: detail"; None when it has one."""

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        """The input [T, L, D] of an utterance that has one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where inputs come from, for tables: the encoder, and the fingerprint of what it made."""

    encoder: str
    fingerprint: str


def open_inputs(config: ProbeConfig, index: CorpusIndex) -> tuple[Inputs, Origin]:
    """The inputs of all utterances of `index`, and where they come from.

    Raises ConfigError when they were made of other shards, or lack the layers asked for.
    """
    if config.predictions is not None:
        return _open_column(config.predictions, config.shards, index, config.view)

    assert config.features is not None  # noqa: S101 (the options are checked; --encoder made them)
    store = open_features(config.features, config.shards)
    inputs = FeatureInputs(store, index, config.view, config.layers)
    return inputs, Origin(store.info.encoder, store.info.fingerprint)


class FeatureInputs:
    """Frames of feature files, pooled or not."""

    def __init__(
        self, store: FeatureStore, index: CorpusIndex, view: InputName, layers: LayersName
    ) -> None:
        if view in OF_TOKENS and not store.info.num_tokens:
            raise ConfigError(
                f"--input {view}: the features hold no extra tokens; run `emostream features "
                "--tokens` into another folder, with an encoder of `train emotion2vec`"
            )

        self._store, self._view, self._layers = store, view, layers
        self._chosen = _chosen_layers(store.info.layers, layers)
        self.num_layers = len(self._chosen) if layers == "weighted" else 1
        self.is_scaled = view == "statistics"

        self._shards: Sequence[str] = index.table["shard"].to_pylist()
        self._offsets: Sequence[int] = index.table["offset"].to_pylist()
        self._kept: dict[int, NDArray[np.float16 | np.float32]] = {}
        self._num_bytes = 0

    def problem(self, row: int) -> str | None:
        """Why an utterance has no frames."""
        found = self._store.find(self._shards[row], self._offsets[row])
        return "no_features: it was not in the shard" if found is None else found.error

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        """The input [T, L, D]; pooled inputs have one frame, in float32."""
        if row in self._kept:
            return self._kept[row]

        found = self._viewed(row)
        if self._num_bytes + found.nbytes <= CACHE_BYTES:
            self._kept[row], self._num_bytes = found, self._num_bytes + found.nbytes
        return found

    def _viewed(self, row: int) -> NDArray[np.float16 | np.float32]:
        place = self._shards[row], self._offsets[row]
        if self._view not in OF_TOKENS:
            return _viewed(self._combined(self._store.read(*place)), self._view)

        tokens_XD = self._store.read_tokens(*place)
        mean_11D = tokens_XD.mean(axis=0, dtype=np.float32)[None, None]
        if self._view == "tokens":
            return mean_11D
        return _beside(self._combined(self._store.read(*place)), mean_11D)

    def _combined(self, stored_TLD: NDArray[np.float16]) -> NDArray[np.float16]:
        chosen_TLD = stored_TLD[:, self._chosen]
        if self._layers != "last4":
            return chosen_TLD
        return chosen_TLD.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.float16)


def _chosen_layers(stored: Sequence[int], layers: LayersName) -> list[int]:
    """The places of the layers that are wanted among those that are stored."""
    order = np.argsort(stored).tolist()
    if layers == "weighted":
        if len(order) < 2:
            raise ConfigError(
                f"--layers weighted: the features hold layer {stored[0]} only; run `emostream "
                "features --layers all`"
            )
        return order

    wanted = 1 if layers == "last" else NUM_LAST
    numbers = [stored[place] for place in order[-wanted:]]
    if numbers != list(range(max(stored) - wanted + 1, max(stored) + 1)):
        raise ConfigError(
            f"--layers {layers}: the features hold the layers {', '.join(map(str, stored))}; run "
            f"`emostream features --layers {layers}`"
        )
    return order[-wanted:]


def _viewed(frames_TLD: NDArray[np.float16], view: InputName) -> NDArray[np.float16 | np.float32]:
    if view == "frames":
        return frames_TLD

    exact_TLD = frames_TLD.astype(np.float32)
    mean_1LD = exact_TLD.mean(axis=0, keepdims=True)
    if view == "utterance":
        return mean_1LD
    if view == "statistics":
        return np.concatenate([mean_1LD, exact_TLD.std(axis=0, keepdims=True)], axis=2)
    return _beside(frames_TLD, mean_1LD)


def _beside(
    frames_TLD: NDArray[np.float16], vector_1LD: NDArray[np.float32]
) -> NDArray[np.float16]:
    """Each frame with the vector of the utterance beside it [T, L, 2 D]."""
    beside_TLD = np.broadcast_to(vector_1LD, frames_TLD.shape)
    return np.concatenate([frames_TLD, beside_TLD], axis=2).astype(np.float16)


class ColumnInputs:
    """A vector of each utterance, from prediction tables."""

    num_layers, is_scaled = 1, True

    def __init__(
        self, index: CorpusIndex, vectors: Mapping[tuple[str, int], NDArray[np.float32] | None]
    ) -> None:
        columns = (index.table[name].to_pylist() for name in ("shard", "offset"))
        self._vectors = [vectors.get(place) for place in zip(*columns, strict=True)]

    def problem(self, row: int) -> str | None:
        """Why an utterance has no vector."""
        if self._vectors[row] is None:
            return "no_descriptors: the prediction table has none for it"
        return None

    def read(self, row: int) -> NDArray[np.float16 | np.float32]:
        """The vector as one frame of one layer [1, 1, D]."""
        vector = self._vectors[row]
        assert vector is not None  # noqa: S101 (rows with a problem are left out)
        return vector[None, None]


def _open_column(
    folder: str, pattern: str, index: CorpusIndex, column: str
) -> tuple[Inputs, Origin]:
    """A column of the tables of `folder` that were made of the shards at hand."""
    now = {one.url: (one.size, one.version) for one in list_files(pattern)}
    vectors: dict[tuple[str, int], NDArray[np.float32] | None] = {}
    digest = ""

    for name in filter(is_table_name, list_names(folder)):
        url = join(folder, name)
        info = read_info(url)
        if info.shard_url not in now:
            continue
        if now[info.shard_url] != (info.shard_size, info.shard_version):
            raise ConfigError(
                f"{url}: the shard {info.shard_url} has changed since it was labeled; run "
                "`emostream label` again"
            )
        digest = info.panel_digest
        with open_parquet(url, remedy=REMEDY) as file:
            if column in file.schema_arrow.names:
                rows = file.read(columns=["offset", column])
                pairs = zip(rows["offset"].to_pylist(), rows[column].to_pylist(), strict=True)
                vectors |= {(info.shard_url, at): _vector(values) for at, values in pairs}

    if not any(vector is not None for vector in vectors.values()):
        raise ConfigError(
            f"--predictions {folder}: no table of these shards has a column `{column}`; label them "
            "with a panel that has `objectives: {acoustics: {features: builtin}}`, or give --input "
            "egemaps for tables of an earlier release"
        )
    return ColumnInputs(index, vectors), Origin(column, digest)


def _vector(values: Sequence[float] | None) -> NDArray[np.float32] | None:
    """The values as a vector; None for none, or for those of which none is a number.

    A single NaN is a descriptor that the utterance does not have, such as the pitch of a whisper.
    """
    found = None if values is None else np.asarray(values, dtype=np.float32)
    return found if found is not None and np.isfinite(found).any() else None
