"""`--speakers`: what a table says of each speaker becomes `demographics` in the json.

The table has a row for each speaker: `speaker` (or `ActorID`, as CREMA-D calls it) and any other
columns. Names of columns are folded to lower case, so that `Sex` and `sex` are one field to
`evaluate --groups`. An age that is written as a number becomes one; other cells of a CSV stay text.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from shards.config import ConfigError
from shards.errors import BadSample
from shards.importing.joining.joined import Joined, joined_with, plain_name, require_free
from shards.importing.plan import Rejected, dictionaries
from shards.importing.table import ReadRows, SourceTable, json_value
from shards.samples.keys import printable
from shards.samples.metadata import number

FIELD = "demographics"
SPEAKER_COLUMNS = ("speaker", "ActorID")
_AGE = "age"


def join_speakers(source: SourceTable, url: str, read: ReadRows) -> Joined:
    """Join the demographics in `read`, the table at `url`, to the utterances of `source`.

    Raises ConfigError when a column is missing or two differ only by case, when the table of
    utterances names no speakers or has demographics already, and when no speaker is in both.
    """
    require_free(source, FIELD, "--speakers")
    if "speaker" not in source.rows.schema.names:
        raise ConfigError(
            "--speakers: the table of utterances has no column speaker to join by; add one"
        )
    speaker_column = _speaker_column(url, read.rows.schema.names)

    speakers = [plain_name(cell) for cell in source.rows["speaker"].to_pylist()]
    known = {name for name in speakers if name is not None}
    _require_match(url, known, [plain_name(cell) for cell in read.rows[speaker_column].to_pylist()])

    found, rejected = _collected(read, speaker_column, known)
    of_rows = [{} if name is None else found.get(name, {}) for name in speakers]
    return joined_with(
        source,
        FIELD,
        [json.dumps(one, ensure_ascii=False, sort_keys=True) if one else None for one in of_rows],
        Counter(name for one in of_rows for name in one),
        read=read,
        rejected=rejected,
        null_cells=read.null_cells,
    )


def _speaker_column(url: str, names: Sequence[str]) -> str:
    shown = ", ".join(printable(name) for name in names)
    column = next((name for name in SPEAKER_COLUMNS if name in names), None)
    if column is None or len(names) < 2:
        raise ConfigError(
            f"--speakers {url}: got the columns {shown}, expected {' or '.join(SPEAKER_COLUMNS)} "
            "and what is known of each speaker, such as sex and age"
        )

    folded = Counter(name.lower() for name in names)
    if repeated := sorted(name for name, number in folded.items() if number > 1):
        raise ConfigError(
            f"--speakers {url}: columns differ only by case ({', '.join(repeated)}); rename all "
            "but one"
        )
    return column


def _require_match(url: str, known: AbstractSet[str], names: Sequence[str | None]) -> None:
    theirs = [name for name in names if name is not None]
    if theirs and known.isdisjoint(theirs):
        mine = min(known, default="")
        raise ConfigError(
            f"--speakers {url}: none of its speakers, such as '{printable(theirs[0], 80)}', is the "
            f"speaker of an utterance, such as '{printable(mine, 80)}'; make the names in both "
            "tables equal"
        )


def _collected(
    read: ReadRows, speaker_column: str, known: AbstractSet[str]
) -> tuple[dict[str, dict[str, object]], list[Rejected]]:
    """What is known of each speaker, and the rows that count for nothing."""
    found: dict[str, tuple[int, dict[str, object]]] = {}
    contradicted: set[str] = set()
    rejected = [Rejected(place, "", reason) for place, reason in read.unreadable]

    for place, cells in zip(read.places.tolist(), dictionaries(read.rows), strict=True):
        name = plain_name(cells.pop(speaker_column))
        try:
            facts = _facts(name, cells, known)
        except BadSample as bad:
            rejected.append(Rejected(place, printable(name or ""), bad.reason))
            continue

        earlier, before = found.setdefault(str(name), (place, facts))
        if earlier == place:
            continue
        is_same = facts == before
        code = "duplicate_speaker" if is_same else "contradictory_speaker"
        said = "says the same" if is_same else "says another thing"
        rejected.append(Rejected(place, printable(str(name)), f"{code}: row {earlier} {said}"))
        if not is_same:
            contradicted.add(str(name))

    # Nobody knows which of two rows is right, so neither counts.
    for name in sorted(contradicted):
        place, _ = found.pop(name)
        reason = "contradictory_speaker: a later row says another thing"
        rejected.append(Rejected(place, printable(name), reason))

    return {name: facts for name, (_, facts) in found.items()}, rejected


def _facts(
    name: str | None, cells: Mapping[str, Any], known: AbstractSet[str]
) -> dict[str, object]:
    """What a row says of a speaker. Raises BadSample when it says nothing that can be used."""
    if name is None:
        raise BadSample("no_speaker", "the row names no speaker")
    if name not in known:
        raise BadSample("unknown_speaker", "no utterance of the table has this speaker")

    # R and pandas number the rows in a column without a name.
    facts = {
        column.lower(): json_value(column, cell.strip() if isinstance(cell, str) else cell)
        for column, cell in cells.items()
        if column
    }
    facts = {column: value for column, value in facts.items() if value is not None}
    if isinstance(age := facts.get(_AGE), str) and math.isfinite(years := number(age)):
        facts[_AGE] = int(years) if years.is_integer() else years

    return facts
