"""Divisions of a corpus for cross-validation, made when its index is read; no shard changes.

A rule assigns each utterance to one of K folds. To measure fold f, fold f becomes the split test,
fold f + 1 (after the last one, the first) the split validation, and the others the split train, so
that over all f each utterance is tested once. The splits that the json states are not looked at.

Folds of speakers are balanced by the number of utterances. They depend on nothing else, not on the
order of the corpus and not on a seed: otherwise runs with different seeds could not be compared.
Dealing speakers out by name was rejected: where names alternate, as those of RAVDESS's women and
men do, the folds would differ by sex.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.grouping import group_rows
from shards.loading.index import CorpusIndex

Kind = Literal["split", "speaker", "leave-one-speaker", "given", "random"]
AS_STATED = "split"
FORMS = "split, speaker:K, leave-one-speaker, session, given:FIELD or random:K"
# One fold each to test, to validate and to train on.
MIN_FOLDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldRule:
    """How utterances are assigned to folds: a kind, and its number of folds or its json field."""

    kind: Kind
    number: int = 0
    field: str = ""


def parse_rule(text: str) -> FoldRule:
    """Read the option `folds`. Raises ConfigError when it is none of the known forms."""
    kind, _, detail = text.partition(":")

    if text == "session":
        return FoldRule(kind="given", field="session")
    if text in ("split", "leave-one-speaker"):
        return FoldRule(kind="split" if text == "split" else "leave-one-speaker")
    if kind == "given" and detail:
        return FoldRule(kind="given", field=detail)
    if kind in ("speaker", "random") and detail.isascii() and detail.isdigit():
        if int(detail) < MIN_FOLDS:
            raise ConfigError(
                f"folds: got {text}, expected at least {MIN_FOLDS} folds: one each to test, to "
                "validate and to train on"
            )
        return FoldRule(kind="speaker" if kind == "speaker" else "random", number=int(detail))

    raise ConfigError(f"folds: got {text!r}, expected {FORMS}")


def fold_of_utterances(index: CorpusIndex, folds: str) -> NDArray[np.int64]:
    """The fold [N] of each utterance, from 0; every fold has an utterance.

    Raises ConfigError for `split`, which makes no folds, and when the corpus has fewer speakers or
    values than folds, or an utterance lacks the field.
    """
    rule = parse_rule(folds)
    if rule.kind == "split":
        raise ConfigError(f"folds: got split, which makes no folds; expected another of {FORMS}")
    if rule.kind == "given":
        return _given(index, rule.field)
    if rule.kind == "random":
        keys = index.table["key"].to_pylist()
        _require_enough(folds, len(keys), rule.number, "utterances")
        return _ranks(keys) % rule.number

    speakers = index.rows_by_speaker()
    number = len(speakers) if rule.kind == "leave-one-speaker" else rule.number
    _require_enough(folds, len(speakers), max(number, MIN_FOLDS), "speakers")
    if rule.kind == "leave-one-speaker":
        return np.unique(index.speaker_of_rows.astype(str), return_inverse=True)[1]
    return _balanced(index, number)


def num_folds(index: CorpusIndex, folds: str) -> int:
    """The number of folds that the rule makes of `index`."""
    return int(fold_of_utterances(index, folds).max()) + 1


def divided(index: CorpusIndex, folds: str, fold: int) -> CorpusIndex:
    """`index` with the splits that test fold `fold`; with `split`, those that the json states.

    Raises ConfigError when there is no such fold.
    """
    if folds == AS_STATED:
        return index

    number = fold_of_utterances(index, folds)
    count = int(number.max()) + 1
    if not 0 <= fold < count:
        raise ConfigError(f"fold: got {fold}, expected 0 to {count - 1}: {folds} makes {count}")

    splits = np.full(len(index), "train", dtype=object)
    splits[number == (fold + 1) % count] = "validation"
    splits[number == fold] = "test"

    place = index.table.schema.get_field_index("split")
    column = pa.array(splits.tolist(), pa.string())
    return CorpusIndex(index.table.set_column(place, index.table.schema.field(place), column))


def _given(index: CorpusIndex, field: str) -> NDArray[np.int64]:
    values = index.texts(field)
    if lacking := [place for place, value in enumerate(values) if value is None]:
        raise ConfigError(
            f"folds: {len(lacking)} of {len(values)} utterances have no `{field}` in their json, "
            f"such as {index.keys(np.asarray(lacking[:1]))[0]}; give each utterance one, or choose "
            "other folds"
        )

    names, number = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    _require_enough(f"given:{field}", len(names), MIN_FOLDS, "values")
    return number


def _balanced(index: CorpusIndex, number: int) -> NDArray[np.int64]:
    """Deal speakers out, those with most utterances first, each to the fold that has fewest."""
    speakers = group_rows(index.speaker_of_rows)
    ranks = dict(zip(speakers, _ranks(speakers).tolist(), strict=True))
    order = sorted(speakers, key=lambda name: (-len(speakers[name]), ranks[name]))

    folds = np.empty(len(index), dtype=np.int64)
    utterances = np.zeros(number, dtype=np.int64)
    for name in order:
        fold = int(utterances.argmin())
        folds[speakers[name]] = fold
        utterances[fold] += len(speakers[name])

    return folds


def _ranks(names: Iterable[str]) -> NDArray[np.int64]:
    """The place of each name in an order that has nothing to do with how names are spelled."""
    digests = [hashlib.sha256(name.encode()).hexdigest() for name in names]
    order = np.argsort(np.asarray(digests), kind="stable")

    ranks = np.empty(len(digests), dtype=np.int64)
    ranks[order] = np.arange(len(digests))
    return ranks


def _require_enough(folds: str, got: int, wanted: int, what: str) -> None:
    if got < wanted:
        raise ConfigError(
            f"folds: got {folds}, but the corpus has {got} {what}, expected at least {wanted}"
        )
