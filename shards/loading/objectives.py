"""The objectives of prediction tables, as targets of the utterances of an index.

`emostream label` writes objectives (acoustic descriptors, sentiment, face embeddings) beside the
labels. Here they are joined to an index by shard and offset, so that a model can be trained on the
labeled shards themselves, or on packed ones that were labeled: nothing has to be selected first.

Shapes: N utterances, V values.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.grouping import group_rows
from shards.licenses import research_only_maker
from shards.loading.index import CorpusIndex
from shards.storage.files import FileIdentity, list_files
from shards.tables.predictions import TableInfo, list_predictions, read_objectives

_SENTIMENTS = ("negative", "neutral", "positive")
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """One objective of every utterance: float32 `array` [N, V], NaN where it is unknown.

    `values` names its V numbers. `research_only_maker` is who made them, if its license is for
    research only.
    """

    name: str
    values: tuple[str, ...]
    array: NDArray[np.float32]
    research_only_maker: str | None = None

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which utterances have the objective, or at least one of its numbers [N]."""
        return np.asarray(np.isfinite(self.array).any(axis=1))


def join_objectives(
    index: CorpusIndex, shards: str, directory: str, names: Sequence[str]
) -> dict[str, Objective]:
    """The objectives `names` of every utterance of `index`, by name.

    `shards` is the pattern that the index was read from, and `directory` the folder of the
    prediction tables. An objective that one table lacks is unknown for its utterances. Raises
    ConfigError for a shard that has no table or has changed since it was labeled, for tables of
    several panels, and for an objective that no table has.
    """
    tables = list_predictions(directory)
    tables_of_shards = _match(index, list_files(shards), tables, directory)
    columns = {url: read_objectives(url, names) for url in tables_of_shards.values()}

    rows_of_shards = group_rows(np.asarray(index.table["shard"].to_pylist(), dtype=object))
    offsets = index.table["offset"].to_numpy()
    infos = list(tables.values())

    joined = {}
    for name in names:
        width = _width(columns.values(), name, directory)
        array = np.full((len(index), width), np.nan, dtype=np.float32)
        for shard, rows in rows_of_shards.items():
            table = columns[tables_of_shards[shard]]
            if name in table.column_names:
                array[rows] = _at_offsets(table, name, width, offsets[rows])

        joined[name] = Objective(
            name=name,
            values=_value_names(name, width, infos),
            array=array,
            research_only_maker=_research_only_maker(name, infos),
        )

    return joined


def _match(
    index: CorpusIndex,
    files: Sequence[FileIdentity],
    tables: Mapping[str, TableInfo],
    directory: str,
) -> dict[str, str]:
    """The URL of the table of each shard of `index`.

    A shard is known by its URL, and one that has moved by its name. The very file that was labeled
    must have its size and version; one at another place must have the size.
    """
    urls, infos = list(tables), list(tables.values())
    by_url = {info.shard_url: url for url, info in tables.items()}
    by_name = group_rows(np.asarray([_last_part(info.shard) for info in infos], dtype=object))
    wanted = set(index.table["shard"].to_pylist())

    found, missing = {}, []
    for file in files:
        if file.url not in wanted:
            continue

        url = by_url.get(file.url)
        if url is None:
            alike = [urls[place] for place in by_name.get(file.name, ())]
            moved = [one for one in alike if file.url.endswith(f"/{tables[one].shard}")]
            url = moved[0] if len(moved) == 1 else None
        if url is None:
            missing.append(file.name)
            continue

        _require_same_version(file, tables[url])
        found[file.url] = url

    if missing:
        shown = ", ".join(missing[:_MAX_NAMED]) + (", ..." if len(missing) > _MAX_NAMED else "")
        raise ConfigError(
            f"--targets {directory}: has no table of {len(missing)} shards ({shown}); run "
            "`emostream label` over these shards"
        )
    return found


def _last_part(name: str) -> str:
    return name.rpartition("/")[2]


def _require_same_version(file: FileIdentity, info: TableInfo) -> None:
    is_same_file = file.url == info.shard_url

    if file.size != info.shard_size or (is_same_file and file.version != info.shard_version):
        raise ConfigError(
            f"{file.url}: has changed since it was labeled ({info.shard_size} bytes then, "
            f"{file.size} now); run `emostream label` again"
        )


def _width(tables: Collection[pa.Table], name: str, directory: str) -> int:
    """The number of values of the objective `name`, in which all tables that have it must agree."""
    widths = {
        table.schema.field(name).type.list_size for table in tables if name in table.column_names
    }

    if not widths:
        raise ConfigError(
            f"--targets {directory}: no table has the objective {name}; name it under `objectives` "
            "in the panel file and run `emostream label` again"
        )
    if len(widths) > 1:
        raise ConfigError(
            f"--targets {directory}: tables differ in how many values the objective {name} has "
            f"({', '.join(map(str, sorted(widths)))}); label all shards with one model"
        )
    return int(widths.pop())


def _at_offsets(
    table: pa.Table, name: str, width: int, offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """The rows [K, V] of a table at `offsets` [K]; NaN where it has none at that offset."""
    column = table[name].combine_chunks()
    stored = np.full((len(column), width), np.nan, dtype=np.float32)
    stored[np.asarray(column.is_valid())] = (
        column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    )

    starts = table["offset"].to_numpy()
    order = np.argsort(starts)
    places = np.searchsorted(starts, offsets, sorter=order).clip(max=len(starts) - 1)
    rows = order[places]

    return np.where((starts[rows] == offsets)[:, None], stored[rows], np.nan).astype(np.float32)


def _research_only_maker(name: str, infos: Sequence[TableInfo]) -> str | None:
    """Who made an objective, if its license is for research only, by the tables' footers."""
    if name != "acoustics":
        return None

    settings = [(info.panel.get("objectives") or {}).get(name) or {} for info in infos]
    makers = {research_only_maker(one.get("features")) for one in settings} - {None}
    return makers.pop() if makers else None


def _value_names(name: str, width: int, infos: Sequence[TableInfo]) -> tuple[str, ...]:
    """What the numbers of an objective are called: by the tables' footers, or by their place."""
    if name == "sentiment":
        return _SENTIMENTS

    stated = {info.labelers.get(name, {}).get("values", "") for info in infos} - {""}
    names = tuple(stated.pop().split(",")) if len(stated) == 1 else ()
    return names if len(names) == width else tuple(f"{name}[{place}]" for place in range(width))
