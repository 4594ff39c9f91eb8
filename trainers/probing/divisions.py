"""Which utterances train, validate and test: the folds of a probe, and low-resource subsets.

The folds are those of `shards/loading/folds.py`, which all methods share. Two things differ, as in
emotion2vec (section 5): where each session is tested once, a random 20 % of the other sessions'
utterances validates, and a table of keys can give the folds. Nothing here depends on the order of a
corpus or on which utterances have features, so that methods are compared on the same utterances.

In conversations, no dialogue is in two parts of a division. The past of two turns that follow each
other is nearly the same, so a model that trained on one would have heard what it is asked about.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
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
SPEAKER, SESSION, SPLIT = "speaker", "session", "split"
GIVEN, RANDOM = "given:", "random:"
TABLE_SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Rows of an index that train, validate and test one model; `name` is what is tested.

    `num_apart` rows are in none of the parts, because their dialogue is in another one.
    """

    name: str
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    num_apart: int = 0


def make_divisions(
    index: CorpusIndex,
    folds: str,
    *,
    seed: int,
    select_on_test: bool,
    dialogues: NDArray[np.str_] | None = None,
) -> list[Division]:
    """The divisions of `index` by the rule `folds`, one for each model to train.

    `dialogues` [N] are names of the dialogues, in conversations: what validates is chosen so that
    it shares none with what is tested, as far as the rule allows; `kept_apart` sees to the rest.

    `seed` draws what validates where the rule leaves it open. With `select_on_test` the tested
    utterances validate too, and those that would validate train. Raises ConfigError when the corpus
    cannot be divided so.
    """
    if dialogues is not None and folds.startswith(RANDOM):
        raise ConfigError(
            f"--folds {folds}: deals out single utterances, but with --history a dialogue stays "
            "whole; give session, speaker, split, given:FIELD (such as given:dialogue) or a table"
        )

    if folds == SPLIT:
        found = [_as_stated(index)]
    else:
        number, names = _fold_of(index, folds)
        found = [
            _tested(index, number, fold, names, folds, dialogues, seed)
            for fold in range(len(names))
        ]

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
    return Division(
        name="test", train=rows["train"], validation=rows["validation"], test=rows["test"]
    )


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
    dialogues: NDArray[np.str_] | None,
    seed: int,
) -> Division:
    test, rest = np.flatnonzero(number == fold), np.flatnonzero(number != fold)
    if folds == SESSION:
        # What is drawn whole: an utterance, or a dialogue.
        units = np.asarray(index.keys(rest)) if dialogues is None else dialogues[rest]
        mine, unit = np.unique(units, return_inverse=True)
        validates = (seeded_ranks(mine.tolist(), seed) < round(VALIDATION_SHARE * len(mine)))[unit]
    else:
        validates = number[rest] == _validating(number, fold, len(names), dialogues)

    return Division(name=names[fold], train=rest[~validates], validation=rest[validates], test=test)


def _validating(
    number: NDArray[np.int64], fold: int, num_folds: int, dialogues: NDArray[np.str_] | None
) -> int:
    """The fold behind the tested one, in conversations the next that shares no dialogue with it."""
    behind = [(fold + step) % num_folds for step in range(1, num_folds)]
    if dialogues is None:
        return behind[0]

    tested = dialogues[number == fold]
    apart = (other for other in behind if not np.isin(dialogues[number == other], tested).any())
    return next(apart, behind[0])


def kept_apart(division: Division, dialogues: NDArray[np.str_]) -> Division:
    """The division with no dialogue in two parts: tested ones leave the others, then validating.

    Where the tested utterances validate, they stay. Raises ConfigError when nothing is left.
    """
    test, validation, train = division.test, division.validation, division.train
    if not np.array_equal(validation, test):
        validation = validation[~np.isin(dialogues[validation], dialogues[test])]
    elsewhere = np.concatenate([dialogues[test], dialogues[validation]])
    train = train[~np.isin(dialogues[train], elsewhere)]

    for name, rows in (("validate", validation), ("train", train)):
        if not len(rows):
            raise ConfigError(
                f"--folds: fold {division.name} has no dialogue of its own to {name}, because each "
                "is in a tested fold too; give folds in which dialogues stay whole, such as "
                "session or given:dialogue"
            )

    before = len(division.validation) + len(division.train)
    return replace(
        division,
        validation=validation,
        train=train,
        num_apart=before - len(validation) - len(train),
    )


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
