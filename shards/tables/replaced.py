"""Which tables of a folder others have replaced: so that no utterance counts twice, and none is
lost.

Tables are known by their shards' URLs: another corpus may use the same names. A shard that is gone
is no reason by itself: its table cost an encoder or a panel, and nobody said that it should not
count.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.storage.files import exists
from shards.storage.parquet import open_parquet


def find_replaced(
    shard_of: Mapping[str, str], planned: Mapping[str, str], *, remedy: str
) -> tuple[list[str], dict[str, int]]:
    """The replaced ones among tables (URL -> their shard's URL), and how many utterances each copy
    repeats.

    `planned` maps the URL of a shard to its table's now. Replaced are other tables of these shards,
    and those of shards that are gone and whose utterances lie in the planned tables: a longer
    import or another pack names shards anew. Copies are tables with such utterances whose shard is
    still there.
    """
    now = frozenset(planned.values())
    replaced = [table for table, shard in shard_of.items() if shard in planned and table not in now]
    others = [table for table, shard in shard_of.items() if shard not in planned]
    copies: dict[str, int] = {}
    for table, number in _count_repeated(others, sorted(now), remedy).items():
        if exists(shard_of[table]):
            copies[table] = number
        else:
            replaced.append(table)
    return replaced, copies


def _count_repeated(others: Sequence[str], tables: Sequence[str], remedy: str) -> dict[str, int]:
    """How many utterances each of the tables `others` shares with `tables`; those that share none
    are left out.
    """
    if not others:
        return {}
    theirs = [_utterances(url, remedy) for url in others]
    ours = pa.chunked_array(
        [chunk for url in tables for chunk in _utterances(url, remedy).chunks], pa.string()
    )
    repeated = pc.is_in(
        pa.chunked_array([c for one in theirs for c in one.chunks], pa.string()), value_set=ours
    )
    ends = np.cumsum([len(one) for one in theirs])
    counts = [int(part.sum()) for part in np.split(repeated.to_numpy(), ends[:-1])]
    return {url: count for url, count in zip(others, counts, strict=True) if count}


def _utterances(url: str, remedy: str) -> pa.ChunkedArray:
    """Speaker and key of each row of a table as one text."""
    with open_parquet(url, remedy=remedy) as file:
        rows = file.read(columns=["speaker", "key"])
    return pc.binary_join_element_wise(pc.fill_null(rows["speaker"], ""), rows["key"], "\0")
