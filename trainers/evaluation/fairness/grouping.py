"""Utterances divided by a field of their json, such as `demographics.sex`.

Utterances without the field are a group of their own, so that nobody vanishes. Ages are banded by
ten years, as two-stage-aver compares them. A group of few utterances or speakers says little about
its people, so it is shown, but no difference between groups counts it.

Shapes: N utterances, K groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.index import CorpusIndex

UNKNOWN = "unknown"
# More values than this are names or numbers, and no groups.
MAX_GROUPS = 50
MIN_UTTERANCES, MIN_SPEAKERS = 30, 5
# Where a short name of a field is looked for when the json has no such field.
DEMOGRAPHICS = "demographics"
_YOUNGEST_BAND, _OLDEST_BAND = 20, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """The groups `names` [K] by one field, and `place` [N] of each utterance among them.

    `num_utterances` and `num_speakers` are [K].
    """

    field: str
    names: Sequence[str]
    place: NDArray[np.int64]
    num_utterances: NDArray[np.int64]
    num_speakers: NDArray[np.int64]

    @property
    def is_large_enough(self) -> NDArray[np.bool_]:
        """Which groups have MIN_UTTERANCES utterances and MIN_SPEAKERS speakers [K]."""
        return np.asarray(
            (self.num_utterances >= MIN_UTTERANCES) & (self.num_speakers >= MIN_SPEAKERS)
        )

    @property
    def reasons(self) -> list[str | None]:
        """Why each group is too small to judge, such as "12 utterances of 3 speakers"; or None."""
        counts = zip(
            self.num_utterances.tolist(),
            self.num_speakers.tolist(),
            self.is_large_enough.tolist(),
            strict=True,
        )
        return [
            None if is_enough else f"{_counted(number, 'utterance')} of {_counted(few, 'speaker')}"
            for number, few, is_enough in counts
        ]


def divide(index: CorpusIndex, field: str) -> Grouping:
    """The groups of the utterances of `index` by `field` of their json.

    `field` is a name, or a path such as `demographics.sex`; `sex` is looked for among the
    demographics when the json has no such field. Raises ConfigError for a field that no utterance
    has, or that has too many values.
    """
    named = np.asarray(_values(index, field), dtype=str)
    names, place = np.unique(named, return_inverse=True)
    if len(names) > MAX_GROUPS:
        raise ConfigError(
            f"--groups {field}: got {len(names)} different values, expected at most {MAX_GROUPS}; "
            "give a field that divides the utterances into few groups"
        )

    speakers = index.speaker_of_rows
    return Grouping(
        field=field,
        names=names.tolist(),
        place=place.astype(np.int64),
        num_utterances=np.bincount(place, minlength=len(names)),
        num_speakers=np.asarray(
            [len(set(speakers[place == group])) for group in range(len(names))], dtype=np.int64
        ),
    )


def _values(index: CorpusIndex, field: str) -> list[str]:
    """The value of each utterance, UNKNOWN where it has none."""
    for path in (field, f"{DEMOGRAPHICS}.{field}"):
        values = index.texts(path)
        if any(value is not None for value in values):
            if path.rpartition(".")[2] == "age":
                values = _banded(values, index.values(path))
            return [UNKNOWN if value is None else value for value in values]

    raise ConfigError(
        f"--groups {field}: no utterance has this field in its json; give a field, or a path "
        "such as demographics.sex"
    )


def _banded(values: Sequence[str | None], ages: NDArray[np.float64]) -> list[str | None]:
    """Ages as bands, from "20s" to "60+"; values that are no numbers stay as they are."""
    return [
        value if value is None or np.isnan(age) else _band(age)
        for value, age in zip(values, ages.tolist(), strict=True)
    ]


def _band(age: float) -> str:
    if age < _YOUNGEST_BAND:
        return f"below {_YOUNGEST_BAND}"
    return f"{_OLDEST_BAND}+" if age >= _OLDEST_BAND else f"{10 * int(age // 10)}s"


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
