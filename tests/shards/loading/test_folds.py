"""Folds as properties: everybody is tested once, and nobody is on both sides."""

import json
from collections import Counter
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.config import ConfigError
from shards.loading.folds import divided, fold_of_utterances, num_folds, parse_rule
from shards.loading.index import SCHEMA, CorpusIndex
from shards.loading.shared_speakers import (
    require_unshared,
    shown_speakers,
    speakers_in_several_splits,
)

# The number of utterances of each speaker.
counts = st.lists(st.integers(1, 6), min_size=5, max_size=12)


def make_index(utterances: list[int]) -> CorpusIndex:
    """Speaker s has so many utterances, in session s mod 4, and stated splits that mean nothing."""
    rows = [
        {
            "key": f"s{speaker}-{number}",
            "speaker": f"s{speaker}",
            "split": "train",
            "json": json.dumps({"session": speaker % 4}),
        }
        for speaker, many in enumerate(utterances)
        for number in range(many)
    ]
    return CorpusIndex(pa.Table.from_pylist(rows, schema=SCHEMA))


@settings(deadline=None)  # the first call imports pyarrow's kernels
@given(counts, st.sampled_from(["speaker:3", "speaker:5", "leave-one-speaker", "session"]))
def test_every_speaker_is_tested_once(utterances: list[int], folds: str) -> None:
    """Over all folds each utterance is tested once; no speaker is on two sides of any."""
    index = make_index(utterances)
    tested: Counter[str] = Counter()

    for fold in range(num_folds(index, folds)):
        split = divided(index, folds, fold)
        assert speakers_in_several_splits(split) == {}
        assert len(split.split("train", "validation", "test")) == len(index)
        tested.update(split.split("test").table["key"].to_pylist())

    assert tested == dict.fromkeys(index.table["key"].to_pylist(), 1)


@settings(deadline=None)  # the first call imports pyarrow's kernels
@given(counts, st.randoms(use_true_random=False))
def test_folds_do_not_depend_on_the_order_of_the_corpus(
    utterances: list[int], random: Random
) -> None:
    """An utterance has the same fold wherever it lies."""
    index = make_index(utterances)
    order = list(range(len(index)))
    random.shuffle(order)
    rows = np.asarray(order)

    for folds in ("speaker:4", "random:3", "session", "leave-one-speaker"):
        if len(index) >= 3:
            expected = fold_of_utterances(index, folds)[rows]
            np.testing.assert_array_equal(fold_of_utterances(index.take(rows), folds), expected)


@settings(deadline=None)  # the first call imports pyarrow's kernels
@given(counts)
def test_folds_are_balanced(utterances: list[int]) -> None:
    """Folds of speakers differ by at most one speaker's utterances, random ones by one."""
    index = make_index(utterances)
    speakers = np.bincount(fold_of_utterances(index, "speaker:3"))
    assert len(speakers) == 3
    assert np.ptp(speakers) <= max(utterances)
    assert np.ptp(np.bincount(fold_of_utterances(index, "random:3"))) <= 1


def test_stated_splits_stay() -> None:
    """`split` changes nothing."""
    index = make_index([1, 1, 1])
    assert divided(index, "split", 0) is index


@pytest.mark.parametrize(
    ("folds", "said"),
    [
        ("speakers", "expected split, speaker:K"),
        ("speaker:2", "at least 3 folds"),
        ("speaker:9", "corpus has 4 speakers, expected at least 9"),
        ("given:room", "4 of 4 utterances have no `room` in their json, such as s0-0"),
        ("random:5", "corpus has 4 utterances"),
    ],
)
def test_folds_that_cannot_be_made_are_refused(folds: str, said: str) -> None:
    """The error says what was got, and what the corpus or the option would have to be."""
    with pytest.raises(ConfigError, match=said):
        fold_of_utterances(make_index([1, 1, 1, 1]), folds)
    with pytest.raises(ConfigError, match="fold: got 3, expected 0 to 2"):
        divided(make_index([1, 1, 1]), "speaker:3", 3)


def test_a_field_of_the_json_gives_the_folds() -> None:
    """`session` is short for given:session, and each session is a fold."""
    assert parse_rule("session") == parse_rule("given:session")
    index = make_index([1, 2, 1, 1])
    assert fold_of_utterances(index, "session").tolist() == [0, 1, 1, 2, 3]


def test_a_speaker_in_two_splits_is_refused_by_name() -> None:
    """Random folds share speakers; the error names them and the option that allows it."""
    shared = divided(make_index([4, 4, 4]), "random:3", 0)
    with pytest.raises(ConfigError, match=r"3 speakers .* 's0' in .*allow_shared_speakers=true"):
        require_unshared(shared, "data.allow_shared_speakers=true")
    require_unshared(divided(make_index([4, 4, 4]), "speaker:3", 0), "")

    many = {f"s{number}": ("test", "train") for number in range(7)}
    assert shown_speakers(many).endswith("'s4' in test and train and 2 more")
