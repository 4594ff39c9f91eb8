"""Which tables of a folder other tables have replaced.

These tables are removed so that no utterance counts twice, and all others stay so that none is
lost. A table is known by its shard's URL, because another corpus may use the same names. A table is
not removed only because its shard is gone: the table cost a pass of an encoder or a panel, and
nobody said that it should not count.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.storage.files import exists
from shards.storage.parquet import open_parquet
from shards.tables.earlier import CONTENT_COLUMN


def find_replaced(
    shard_of: Mapping[str, str], planned: Mapping[str, str], *, remedy: str
) -> tuple[list[str], dict[str, int]]:
    """The replaced tables, and each copy with the number of utterances that it repeats.

    `shard_of` maps the URL of every table to the URL of its shard, and `planned` maps the URL of
    every shard in use to the URL of the table that is made from it now. A table is replaced when

    - its shard is in use, but another table is made from it now, or
    - its shard is gone, and utterances of the table are in the planned tables too: a longer import
      or another pack gives the same utterances to shards with other names. An utterance is known by
      its speaker and key, or by its content and key where the speaker has been corrected.

    A copy is a table that repeats utterances of the planned tables although its own shard is still
    there.
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
    """How many utterances of each table in `others` are in `tables` too; no entry means none."""
    if not others:
        return {}

    theirs = [_utterances(url, remedy) for url in others]
    ours = pa.concat_tables([_utterances(url, remedy) for url in tables] or [theirs[0].slice(0, 0)])

    # One look-up serves all of `others`: they are joined for it, and the answer is cut at their
    # ends.
    joined = pa.concat_tables(theirs)
    repeated = pc.or_(
        *(
            pc.is_in(joined[column], value_set=ours[column], skip_nulls=True)
            for column in ("by_speaker", "by_content")
        )
    )
    ends = np.cumsum([len(one) for one in theirs])
    counts = [int(part.sum()) for part in np.split(repeated.to_numpy(), ends[:-1])]

    return {url: count for url, count in zip(others, counts, strict=True) if count}


def _utterances(url: str, remedy: str) -> pa.Table:
    """For each row of a table, what its utterance is known by: its key with the speaker or content.

    The content is null where a table has none.
    """
    with open_parquet(url, remedy=remedy) as file:
        present = set(file.schema_arrow.names)
        rows = file.read(columns=["speaker", "key", *present & {CONTENT_COLUMN}])

    keys = rows["key"].cast(pa.binary())
    contents = rows[CONTENT_COLUMN] if CONTENT_COLUMN in present else pa.nulls(len(rows))
    speakers = pc.fill_null(rows["speaker"], "").cast(pa.binary())
    return pa.table(
        {
            "by_speaker": pc.binary_join_element_wise(speakers, keys, b"\0"),
            "by_content": pc.binary_join_element_wise(contents.cast(pa.binary()), keys, b"\0"),
        }
    )
