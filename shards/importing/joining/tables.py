"""The tables that an import joins to the table of utterances, and the lists of their rejected rows.

The text of all tables is read by the same options: whoever has one table in cp1252 has all of them
so.
"""

from shards.importing.config import ImportConfig
from shards.importing.joining.demographics import FIELD as DEMOGRAPHICS
from shards.importing.joining.demographics import join_speakers
from shards.importing.joining.joined import Joined
from shards.importing.joining.ratings import FIELD as RATINGS
from shards.importing.joining.ratings import join_ratings
from shards.importing.reading import read_rows
from shards.importing.table import SourceTable

_JOINS = {RATINGS: join_ratings, DEMOGRAPHICS: join_speakers}
# The lists of rejected rows, by the json field that the rows were to go into.
REJECTED_NAMES = {field: f"import-rejected-{field}.parquet" for field in _JOINS}


def join_tables(
    source: SourceTable, config: ImportConfig
) -> tuple[SourceTable, tuple[Joined, ...]]:
    """`source` with the columns that the options ask for, and what became of the joined rows.

    Raises ConfigError when a table cannot be used.
    """
    joined = []

    for field, url in ((RATINGS, config.ratings), (DEMOGRAPHICS, config.speakers)):
        if url is not None:
            joined.append(_JOINS[field](source, url, read_rows(url, config.text_format)))
            source = joined[-1].source

    return source, tuple(joined)
