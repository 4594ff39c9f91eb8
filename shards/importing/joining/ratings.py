"""`--ratings`: the votes of a table become `ratings` in the json of the utterances.

Votes on an utterance under one stimulus are used as a whole or not at all: a distribution that
lacks the votes of a broken row would be another one, and nobody would see it.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from shards.config import ConfigError
from shards.importing.joining.joined import Joined, joined_with, key_of, require_free
from shards.importing.joining.rating_rows import RatingRow, read_rating_rows
from shards.importing.plan import Rejected
from shards.importing.table import ReadRows, SourceTable
from shards.samples.keys import printable
from shards.samples.metadata import RATED_STIMULI

FIELD = "ratings"


@dataclass(slots=True)
class _Rating:
    """What the rows say of one utterance under one stimulus.

    `votes` has, by label without regard to case, the label as spelled first, its votes, and the
    place of the row. `rows` are the rows that count, and `fault` is a reason why none can.
    """

    votes: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rows: list[RatingRow] = field(default_factory=list)
    fault: str | None = None


def join_ratings(source: SourceTable, url: str, read: ReadRows) -> Joined:
    """Join the votes in `read`, the table at `url`, to the utterances of `source` by their keys.

    Raises ConfigError when the columns are those of no known layout, when the table of utterances
    has ratings already, and when no row has the key of an utterance.
    """
    require_free(source, FIELD, "--ratings")
    rows, rejected = read_rating_rows(url, read)
    keys = [key_of(cell) for cell in source.rows[source.key_column].to_pylist()]

    known = set(keys)
    matching = [row for row in rows if row.key in known]
    _require_match(url, rows, matching, keys)
    rejected += [
        Rejected(row.place, row.key, "unknown_key: no row of the table of utterances has this key")
        for row in rows
        if row.key not in known
    ]

    ratings, unusable = _collected(matching)
    votes = {pair: _counted(rating) for pair, rating in ratings.items() if rating.fault is None}
    of_rows = [_of_utterance(key, votes) for key in keys]

    return joined_with(
        source,
        FIELD,
        [json.dumps(found, ensure_ascii=False) if found else None for found in of_rows],
        Counter(stimulus for found in of_rows for stimulus in found),
        read=read,
        rejected=[*rejected, *unusable],
    )


def _require_match(
    url: str, rows: Sequence[RatingRow], matching: Sequence[RatingRow], keys: Sequence[str | None]
) -> None:
    if rows and not matching:
        mine = next((key for key in keys if key is not None), "")
        raise ConfigError(
            f"--ratings {url}: none of its keys, such as '{printable(rows[0].key)}', is the key of "
            f"an utterance, such as '{printable(mine)}'; make the names in both tables equal"
        )


def _collected(
    rows: Iterable[RatingRow],
) -> tuple[dict[tuple[str, str], _Rating], list[Rejected]]:
    """What the rows say, by key and stimulus, and the rows that count for nothing."""
    ratings: dict[tuple[str, str], _Rating] = defaultdict(_Rating)
    rejected = []

    for row in rows:
        rating = ratings[row.key, row.stimulus]
        reason = row.fault or _repeated(row, rating)
        if reason is None:
            _add(row, rating)
            continue

        rejected.append(Rejected(row.place, row.key, reason))
        if not reason.startswith("duplicate_"):
            rating.fault = rating.fault or f"row {row.place} ({reason})"

    rejected += [
        Rejected(
            row.place,
            row.key,
            f"incomplete_rating: the {row.stimulus} votes cannot be used because of {rating.fault}",
        )
        for rating in ratings.values()
        if rating.fault is not None
        for row in rating.rows
    ]
    return ratings, rejected


def _repeated(row: RatingRow, rating: _Rating) -> str | None:
    """Why a row that says something again is rejected; None when it says something new."""
    for label, number in row.votes.items():
        earlier = rating.votes.get(_folded(label))
        if earlier is None:
            continue

        _, before, place = earlier
        what = f"row {place} has {row.stimulus} votes for {printable(label, 80)} too"
        if number == before:
            return f"duplicate_rating: {what}"
        return f"contradictory_rating: {what}, {before} and not {number}"

    return None


def _add(row: RatingRow, rating: _Rating) -> None:
    rating.rows.append(row)
    for label, number in row.votes.items():
        rating.votes[_folded(label)] = (label, number, row.place)


def _folded(label: str) -> str:
    return " ".join(label.split()).casefold()


def _counted(rating: _Rating) -> dict[str, int]:
    """Votes by label, sorted, so that the order of the rows changes no sample."""
    return {label: number for label, number, _ in sorted(rating.votes.values()) if number > 0}


def _of_utterance(
    key: str | None, votes: Mapping[tuple[str, str], Mapping[str, int]]
) -> dict[str, Mapping[str, int]]:
    if key is None:
        return {}

    found = {stimulus: votes.get((key, stimulus), {}) for stimulus in RATED_STIMULI}
    return {stimulus: counts for stimulus, counts in found.items() if counts}
