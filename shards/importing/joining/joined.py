"""What a joined table gives: cells of json by name, the rows that gave nothing, and a report.

The rows of a joined table have their own list of rejected rows, because a row of theirs is no
utterance. A name that no utterance has is no fault: ratings of a whole corpus fit a part of it.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from shards.config import ConfigError
from shards.errors import BadSample, reason_code
from shards.importing.plan import Rejected, tar_key
from shards.importing.table import ReadRows, SourceTable, text_cell
from shards.samples.keys import printable

# The codes of rows that fit no utterance of the table.
UNKNOWN_CODES = frozenset({"unknown_key", "unknown_speaker"})


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinReport:
    """What became of the rows of a table whose cells went into the json field `field`.

    `num_utterances` counts the rows of the table of utterances that have each part of the field
    now: each stimulus of `ratings`, each column of `demographics`. `num_without` counts those that
    have nothing of it, and `example_without` is the key of one. `rejected` counts rows of the
    joined table by the code of their reason, and `examples` has the first row of each code.
    `null_cells` counts, by column, the cells that a word such as NA made empty, where no rejected
    row tells of them.
    """

    field: str
    num_rows: int
    num_utterances: Mapping[str, int]
    num_without: int
    example_without: str | None
    rejected: Mapping[str, int]
    examples: Mapping[str, Rejected]
    null_cells: Mapping[str, int]

    @property
    def is_faulty(self) -> bool:
        """Whether a row was rejected for another reason than that it fits no utterance."""
        return not self.rejected.keys() <= UNKNOWN_CODES


@dataclass(frozen=True, slots=True)
class Joined:
    """A table of utterances with a joined column, the rejected rows of the other, and a report."""

    source: SourceTable
    rejected: tuple[Rejected, ...]
    report: JoinReport


def plain_name(cell: object) -> str | None:
    """A key or speaker as it is compared; None where the cell is empty or holds another thing."""
    if isinstance(cell, bool) or not isinstance(cell, str | int):
        return None

    return unicodedata.normalize("NFC", str(cell)).strip() or None


def key_of(cell: object) -> str | None:
    """The key that a cell of a key column gives a sample; None where it gives none."""
    try:
        return tar_key(text_cell({"key": cell}, "key"))
    except BadSample:
        # The plan rejects the row for this.
        return None


def joined_with(
    source: SourceTable,
    field: str,
    cells: Sequence[str | None],
    num_utterances: Mapping[str, int],
    *,
    read: ReadRows,
    rejected: Sequence[Rejected],
    null_cells: Mapping[str, int] | None = None,
) -> Joined:
    """`source` with the column `field`, whose `cells` are JSON texts, one a row.

    They were made of the rows in `read`, of which some were `rejected`.
    """
    column = pa.array(cells, pa.string())
    keys = source.rows[source.key_column].to_pylist()
    without = [key for key, cell in zip(keys, cells, strict=True) if cell is None]
    by_row = sorted(rejected, key=lambda item: item.row)

    report = JoinReport(
        field=field,
        num_rows=read.rows.num_rows + len(read.unreadable),
        num_utterances=dict(num_utterances),
        num_without=len(without),
        example_without=printable(str(without[0])) if without else None,
        rejected=dict(sorted(Counter(reason_code(item.reason) for item in by_row).items())),
        # Of the rows with one code, the first is put in last, and stays.
        examples={reason_code(item.reason): item for item in reversed(by_row)},
        null_cells=dict(null_cells or {}),
    )
    rows = source.rows.append_column(field, column)
    return Joined(replace(source, rows=rows, joined=(*source.joined, field)), tuple(by_row), report)


def require_free(source: SourceTable, field: str, option: str) -> None:
    """Raise ConfigError when the table of utterances has the column that is to be joined."""
    if field in source.rows.schema.names:
        raise ConfigError(
            f"{option}: the table of utterances has a column {field} already, which the joined "
            f"table would replace; rename that column, or leave {option} out"
        )
