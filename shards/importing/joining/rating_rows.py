"""Reading a table of votes: a long one with a row for each label, or CREMA-D's own.

The long layout has the columns `key` (or `clip`), `stimulus`, `label` and `votes`. CREMA-D's
`tabulatedVotes.csv` has a row for each clip and stimulus with a column for each label; the first
digit of a row's number tells the stimulus. Whole numbers are required, because a label is decided
by whether C x votes is greater than all votes.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from shards.config import ConfigError
from shards.errors import BadSample
from shards.importing.joining.joined import key_of, plain_name
from shards.importing.plan import Rejected, dictionaries
from shards.importing.table import KEY_COLUMNS, ReadRows
from shards.samples.keys import printable
from shards.samples.metadata import MAX_VOTES, RATED_STIMULI

_LONG_COLUMNS = ("stimulus", "label", "votes")
# CREMA-D's columns of votes and what their letters mean (Cao et al. 2014).
_CREMA_D_LABELS = {
    "A": "anger",
    "D": "disgust",
    "F": "fear",
    "H": "happiness",
    "N": "neutral",
    "S": "sadness",
}
_CREMA_D_KEY, _CREMA_D_TOTAL = "fileName", "numResponses"
_CREMA_D_STIMULI = {"1": "voice", "2": "face", "3": "audiovisual"}
_KEYS = (*KEY_COLUMNS, _CREMA_D_KEY)
_WHOLE_NUMBER = re.compile(r"[0-9]{1,10}(?:\.0*)?")


@dataclass(frozen=True, slots=True)
class RatingRow:
    """Votes on one stimulus of one utterance, by label as the table spells it.

    `place` is that of the row in its file. `fault` says why the row cannot be used; it then has no
    votes.
    """

    place: int
    key: str
    stimulus: str
    votes: Mapping[str, int]
    fault: str | None = None


def read_rating_rows(url: str, read: ReadRows) -> tuple[list[RatingRow], list[Rejected]]:
    """The rows of votes in `read`, and the rows that tell of no utterance or no stimulus.

    Raises ConfigError when the columns are those of no known layout.
    """
    row_of = _layout(url, read.rows.schema.names)
    rows = []
    rejected = [Rejected(place, "", reason) for place, reason in read.unreadable]

    for place, cells in zip(read.places.tolist(), dictionaries(read.rows), strict=True):
        try:
            rows.append(row_of(place, cells))
        except BadSample as bad:
            name = next((str(cells[name]) for name in _KEYS if cells.get(name) is not None), "")
            rejected.append(Rejected(place, printable(name), bad.reason))

    return rows, rejected


def _layout(url: str, names: list[str]) -> Callable[[int, Mapping[str, Any]], RatingRow]:
    """The function that reads a row with the columns `names`."""
    key_column = next((name for name in KEY_COLUMNS if name in names), None)
    if key_column is not None and {*_LONG_COLUMNS} <= {*names}:
        return partial(_long_row, key_column)

    # R writes the numbers of the rows as a first column without a name.
    if {_CREMA_D_KEY, *_CREMA_D_LABELS} <= {*names} and names[0] not in _CREMA_D_LABELS:
        return partial(_crema_d_row, names[0])

    raise ConfigError(
        f"--ratings {url}: got the columns {', '.join(printable(name) for name in names)}; "
        f"expected {' or '.join(KEY_COLUMNS)}, {', '.join(_LONG_COLUMNS)}, or those of CREMA-D's "
        "tabulatedVotes.csv; a table with a row for each vote is counted first"
    )


def _long_row(key_column: str, place: int, cells: Mapping[str, Any]) -> RatingRow:
    key = _key(cells[key_column])
    stated = (plain_name(cells["stimulus"]) or "").casefold()
    # "audio-visual" is spelled in several ways.
    stimulus = re.sub("[-_ ]", "", stated)
    if stimulus not in RATED_STIMULI:
        raise BadSample(
            "bad_stimulus",
            f"stimulus is '{printable(stated, 80)}', expected {', '.join(RATED_STIMULI)}",
        )

    try:
        label = plain_name(cells["label"])
        if label is None:
            raise BadSample("bad_label", "label is empty, expected the name of a class")
        return RatingRow(place, key, stimulus, {label: _whole_number("votes", cells["votes"])})
    except BadSample as bad:
        return RatingRow(place, key, stimulus, {}, bad.reason)


def _crema_d_row(number_column: str, place: int, cells: Mapping[str, Any]) -> RatingRow:
    key = _key(cells[_CREMA_D_KEY])
    number = plain_name(cells[number_column]) or ""
    stimulus = _CREMA_D_STIMULI.get(number[:1])
    if stimulus is None:
        raise BadSample(
            "bad_stimulus",
            f"the row's number is '{printable(number, 80)}', expected one that begins with 1 "
            "(voice), 2 (face) or 3 (audio-visual)",
        )

    try:
        votes = {
            label: _whole_number(column, cells[column]) for column, label in _CREMA_D_LABELS.items()
        }
        _require_total(sum(votes.values()), cells.get(_CREMA_D_TOTAL))
        return RatingRow(place, key, stimulus, votes)
    except BadSample as bad:
        return RatingRow(place, key, stimulus, {}, bad.reason)


def _key(cell: object) -> str:
    key = key_of(plain_name(cell))
    if key is None:
        raise BadSample("no_key", "the row has no key that a sample could have")
    return key


def _whole_number(column: str, cell: object) -> int:
    """A number of votes. Raises BadSample when it is no whole number of 0 or more."""
    text = "" if cell is None or isinstance(cell, bool) else str(cell).strip()

    # A column of whole numbers that had a gap comes as 3.0.
    if not _WHOLE_NUMBER.fullmatch(text) or float(text) > MAX_VOTES:
        raise BadSample(
            "bad_votes",
            f"{column} is '{printable(text, 80)}', expected a whole number from 0 to {MAX_VOTES}",
        )
    return int(float(text))


def _require_total(votes: int, stated: object) -> None:
    if stated is not None and votes != _whole_number(_CREMA_D_TOTAL, stated):
        raise BadSample("bad_votes", f"the row has {votes} votes, but {_CREMA_D_TOTAL} is {stated}")
