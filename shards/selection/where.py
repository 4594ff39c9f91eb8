"""`--where`: conditions on what is known of an utterance, such as `language=en`.

A condition names a field, compares it, and gives a value. Fields are the columns of a prediction
table (`duration_seconds`, `speaker`, `emotion`, `transcript`) and, by dotted name, whatever the
sample's json holds (`language`, `split`, `demographics.age`). An expression language (SQL, pandas'
`query`) was left out: a list of plain conditions can be told one by one in the rejects.
"""

import json
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.samples.metadata import dig, number
from shards.tables.predictions import METADATA_COLUMN

TABLE_FIELDS = ("duration_seconds", "speaker", "emotion", "transcript", "key", "shard")
ALTERNATIVES = "|"
_CONDITION = re.compile(r"\s*([^\s=!<>]+)\s*(<=|>=|!=|==?|<|>)\s*(.+?)\s*")
_ORDER: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_BATCH_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition, as in `duration_seconds>=1` or `language=en|de`."""

    field: str
    comparison: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Raises ConfigError when `text` is no condition."""
        match = _CONDITION.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"--where: got {text!r}, expected FIELD, one of = != < <= > >=, and a value, such "
                "as duration_seconds>=1 or language=en|de"
            )

        field, comparison, value = match.groups()
        condition = cls(field, "=" if comparison == "==" else comparison, value)
        if condition.comparison in _ORDER and math.isnan(number(condition.value)):
            raise ConfigError(
                f"--where {text}: got {condition.value!r} after {condition.comparison}, expected a "
                "number"
            )
        return condition

    def __str__(self) -> str:
        return f"{self.field}{self.comparison}{self.value}"

    def holds(self, found: object) -> bool:
        """Whether the condition holds for the value of its field; None is a missing field.

        A missing field meets no condition but `!=`.
        """
        if self.comparison in _ORDER:
            # NaN, which stands for whatever is not a number, meets no comparison.
            return _ORDER[self.comparison](number(found), number(self.value))

        is_one = any(_equal(found, choice) for choice in self.value.split(ALTERNATIVES))
        return is_one == (self.comparison == "=")


def columns_for(conditions: Sequence[str]) -> list[str]:
    """The columns that `filtered` reads, beside those that every selection reads anyway."""
    fields = {Condition.parse(condition).field for condition in conditions}
    others = [METADATA_COLUMN] if fields - set(TABLE_FIELDS) else []
    return others + (["transcript"] if "transcript" in fields else [])


def filtered(table: pa.Table, conditions: Sequence[str]) -> NDArray[np.object_]:
    """For each row, the reason why it is filtered out; None for a row that meets all conditions.

    Raises ConfigError for a field that no row has, or for a table that was written before tables
    held the json of the samples.
    """
    parsed = [Condition.parse(text) for text in conditions]
    reason = np.full(len(table), None, dtype=object)
    seen = dict.fromkeys((condition.field for condition in parsed), False)

    for position, row in enumerate(_rows(table, seen)):
        for condition in parsed:
            found = row[condition.field]
            seen[condition.field] |= found is not None
            if reason[position] is None and not condition.holds(found):
                reason[position] = f"filtered: {condition}"

    unseen = [field for field, is_seen in seen.items() if not is_seen]
    if unseen and len(table):
        raise ConfigError(f"--where {unseen[0]}: {_why_unseen(table, unseen[0])}")
    return reason


def _rows(table: pa.Table, fields: Mapping[str, bool]) -> Iterator[dict[str, Any]]:
    """The `fields` of each row; None where a row lacks one."""
    columns = [name for name in fields if name in TABLE_FIELDS]
    others = [name for name in fields if name not in TABLE_FIELDS]
    wanted = [*columns, *([METADATA_COLUMN] if others else [])]

    for batch in table.select(wanted).to_batches(max_chunksize=_BATCH_ROWS):
        for row in batch.to_pylist():
            metadata = json.loads(row.pop(METADATA_COLUMN, None) or "{}")
            yield row | {name: dig(metadata, name) for name in others}


def _why_unseen(table: pa.Table, field: str) -> str:
    if field not in TABLE_FIELDS and table[METADATA_COLUMN].null_count == len(table):
        return (
            "these prediction tables do not hold the json of the samples; label again with this "
            "release"
        )
    return (
        f"no utterance has this field; expected one of {', '.join(TABLE_FIELDS)}, or a field of "
        "the samples' json by its dotted name"
    )


def _equal(found: object, choice: str) -> bool:
    """Whether a value is the one that `choice` writes; 30, 30.0 and "30" are the same."""
    if found is None:
        return False
    text = found if isinstance(found, str) else json.dumps(found)
    return text == choice or (not isinstance(found, bool) and number(found) == number(choice))
