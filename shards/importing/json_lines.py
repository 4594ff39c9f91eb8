"""Reading a table of JSON lines: an object in each line, one for each utterance.

Python's `json` reads the lines. Arrow's reader was left out: it makes times of texts that look like
dates, and refuses a whole file for one bad line.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from shards.config import ConfigError
from shards.importing.config import TextFormat
from shards.importing.decoding import open_text
from shards.importing.table import ReadRows
from shards.samples.keys import printable


def read_json_lines(url: str, text_format: TextFormat) -> ReadRows:
    """Read the JSON lines at `url`; cells keep their types, and blank lines are no rows.

    Raises ConfigError when the file is not text, when no line holds an object, and when a column
    mixes types.
    """
    objects: list[dict[str, Any]] = []
    unreadable: list[tuple[int, str]] = []

    with open_text(url, text_format.encoding) as lines:
        for place, (number, line) in enumerate(_filled(lines)):
            try:
                objects.append(_object(line))
            except (ValueError, RecursionError) as error:
                shown = printable(line.strip(), 80)
                unreadable.append((place, f"bad_row: line {number}: {error}: {shown}"))

    if not objects:
        found = unreadable[0][1].removeprefix("bad_row: ") if unreadable else "only blank lines"
        raise ConfigError(f"{url}: got {found}; expected a JSON object in each line")

    return ReadRows(_arrow_table(url, objects), tuple(unreadable), {}, is_text=False)


def _filled(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, line


def _object(line: str) -> dict[str, Any]:
    value = json.loads(line, object_pairs_hook=_with_unique_names)
    if not isinstance(value, dict):
        raise ValueError(f"got a {type(value).__name__}, expected an object")  # noqa: TRY004
    # Half a surrogate pair can be written as an escape, but is no character.
    json.dumps(value, ensure_ascii=False).encode()
    return value


def _with_unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        raise ValueError("an object gives a name twice, expected it once")
    return built


def _arrow_table(url: str, objects: list[dict[str, Any]]) -> pa.Table:
    names = list(dict.fromkeys(name for row in objects for name in row))
    columns = []

    for name in names:
        try:
            columns.append(pa.array([row.get(name) for row in objects]))
        except (pa.ArrowException, OverflowError) as error:
            raise ConfigError(
                f"{url}: the cells of {printable(name)} have no type in common ({error}); give "
                "them one, for example by putting every number in quotes"
            ) from error

    return pa.Table.from_arrays(columns, names)
