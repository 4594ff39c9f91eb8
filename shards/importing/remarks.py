"""What an import noticed about its table: no reason to reject a row, but somebody should know."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from shards.emotions import canonical_emotion
from shards.importing.joining.joined import JoinReport
from shards.importing.table import SourceTable
from shards.importing.twins import TwinReport
from shards.samples.keys import printable
from shards.splits import DEFAULT_SPLIT, shared_speakers

_SHOWN_VALUES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """Remarks on the rows that could be read, the rejected ones among them.

    `null_cells` counts, by column, the cells with a word that stands for an empty cell.
    `num_unknown_emotions` counts the rows whose emotion is none of the seven, and
    `unknown_emotions` the most frequent of these by name. `shared_speakers` are the speakers who
    are in more than one split, with their splits. `joined` tells of the tables that were joined to
    the table of utterances, one for each of --ratings and --speakers.
    """

    null_cells: Mapping[str, int]
    num_unknown_emotions: int
    unknown_emotions: Mapping[str, int]
    twins: TwinReport
    shared_speakers: Mapping[str, tuple[str, ...]]
    joined: tuple[JoinReport, ...]


def remarks_on(
    source: SourceTable, twins: TwinReport, joined: tuple[JoinReport, ...] = ()
) -> Remarks:
    """The remarks on `source`, whose twins have been looked for."""
    unknown = _unknown_emotions(source.rows)

    return Remarks(
        null_cells=dict(source.null_cells),
        num_unknown_emotions=sum(unknown.values()),
        unknown_emotions=dict(list(unknown.items())[:_SHOWN_VALUES]),
        twins=twins,
        shared_speakers=speakers_in_splits(source.rows),
        joined=joined,
    )


def speakers_in_splits(rows: pa.Table) -> dict[str, tuple[str, ...]]:
    """The speakers who are in more than one split, with their splits."""
    if not {"speaker", "split"} <= set(rows.schema.names):
        return {}

    speakers, splits = (rows[name].to_pylist() for name in ("speaker", "split"))
    return shared_speakers(
        (str(speaker).strip(), str(split or DEFAULT_SPLIT).strip())
        for speaker, split in zip(speakers, splits, strict=True)
        if speaker is not None
    )


def _unknown_emotions(rows: pa.Table) -> dict[str, int]:
    """The emotions that are none of the seven and their numbers of rows, the most frequent first.

    Values that are not text are left to the check of each row, which rejects them.
    """
    if "emotion" not in rows.schema.names or not pa.types.is_string(rows["emotion"].type):
        return {}

    counted = pc.value_counts(pc.drop_null(pc.utf8_trim_whitespace(rows["emotion"])))
    counts = {item["values"]: item["counts"] for item in counted.to_pylist()}
    unknown = {
        printable(name, 80): number
        for name, number in counts.items()
        if name and canonical_emotion(name) is None
    }

    return dict(sorted(unknown.items(), key=lambda item: (-item[1], item[0])))
