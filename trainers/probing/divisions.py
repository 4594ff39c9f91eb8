"""Which utterances train, validate and test: the folds of a probe, and low-resource subsets.

The folds are those of `shards/loading/folds.py`, which all methods share. Two things differ, as in
emotion2vec (section 5): where each session is tested once, a random 20 % of the other sessions'
utterances validates, and a table of keys can give the folds. Nothing here depends on the order of a
corpus or on which utterances have features, so that methods are compared on the same utterances.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.folds import MIN_FOLDS, fold_of_utterances, parse_rule
from shards.loading.index import CorpusIndex
from shards.loading.subsets import seeded_ranks

VALIDATION_SHARE = 0.2  # of the training sessions' utterances
SPEAKER, SESSION, SPLIT, GIVEN = "speaker", "session", "split", "given:"
TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Rows of an index that train, validate and test one model; `name` is what is tested."""

    name: str
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]


def make_divisions(
    index: CorpusIndex, folds: str, *, seed: int, select_on_test: bool
) -> list[Division]:
    """The divisions of `index` by the rule `folds`, one for each model to train.

    `seed` draws what validates where the rule leaves it open. With `select_on_test` the tested
    utterances validate too, and those that would validate train. Raises ConfigError when the corpus
    cannot be divided so.
    """
    if folds == SPLIT:
        found = [_as_stated(index)]
    else:
        number, names = _fold_of(index, folds)
        found = [_tested(index, number, fold, names, folds, seed) for fold in range(len(names))]

    if not select_on_test:
        return found
    return [
        Division(
            name=one.name,
            train=np.sort(np.concatenate([one.train, one.validation])),
            validation=one.test,
            test=one.test,
        )
        for one in found
    ]


def _as_stated(index: CorpusIndex) -> Division:
    split = np.asarray(index.table["split"].to_pylist(), dtype=object)
    rows = {name: np.flatnonzero(split == name) for name in ("train", "validation", "test")}
    if lacking := [name for name, mine in rows.items() if not len(mine)]:
        raise ConfigError(
            f"--folds split: no utterance has the split {' or '.join(lacking)} in its json; choose "
            "other --folds, such as speaker:5"
        )
    return Division(name="test", **rows)


def _fold_of(index: CorpusIndex, folds: str) -> tuple[NDArray[np.int64], list[str]]:
    """The fold [N] of each utterance, and the names of the folds."""
    if folds.startswith(GIVEN) and folds.endswith(TABLE_SUFFIXES):
        return _from_table(index, folds.removeprefix(GIVEN))

    rule = "leave-one-speaker" if folds == SPEAKER else folds
    number = fold_of_utterances(index, rule)
    kind = parse_rule(rule)
    if kind.kind == "given":
        return number, sorted({str(value) for value in index.texts(kind.field)})
    if kind.kind == "leave-one-speaker":
        return number, index.speakers
    return number, [str(fold) for fold in range(int(number.max()) + 1)]


def _tested(
    index: CorpusIndex,
    number: NDArray[np.int64],
    fold: int,
    names: Sequence[str],
    folds: str,
    seed: int,
) -> Division:
    test, rest = np.flatnonzero(number == fold), np.flatnonzero(number != fold)
    if folds == SESSION:
        keys = index.keys(rest)
        validates = seeded_ranks(keys, seed) < round(VALIDATION_SHARE * len(rest))
    else:
        # The fold behind the tested one validates.
        validates = number[rest] == (fold + 1) % len(names)

    return Division(name=names[fold], train=rest[~validates], validation=rest[validates], test=test)


def _from_table(index: CorpusIndex, path: str) -> tuple[NDArray[np.int64], list[str]]:
    """The folds that a table of keys gives; its rows may be in any order."""
    if not Path(path).is_file():
        raise ConfigError(f"--folds given:{path}: no such file; give a table of keys and folds")
    table = pq.read_table(path) if path.endswith(".parquet") else pyarrow.csv.read_csv(path)
    if not {"key", "fold"} <= set(table.column_names):
        raise ConfigError(
            f"--folds given:{path}: got the columns {', '.join(table.column_names)}, expected "
            "`key` and `fold`"
        )

    texts = (table[name].cast(pa.string()).to_pylist() for name in ("key", "fold"))
    fold_of = dict(zip(*texts, strict=True))
    keys = index.table["key"].to_pylist()
    if lacking := [key for key in keys if fold_of.get(key) is None]:
        raise ConfigError(
            f"--folds given:{path}: has no fold for {len(lacking)} of {len(keys)} utterances, such "
            f"as {lacking[0]}; give each key one"
        )

    names, number = np.unique([fold_of[key] for key in keys], return_inverse=True)
    if len(names) < MIN_FOLDS:
        raise ConfigError(
            f"--folds given:{path}: got {len(names)} folds, expected at least {MIN_FOLDS}: one "
            "each to test, to validate and to train on"
        )
    return number.astype(np.int64), [str(name) for name in names]
