"""Folds are those of the papers, and low-resource subsets keep shares and are nested."""

from pathlib import Path

import numpy as np
import pytest

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from tests.trainers.probing.worlds import make_index
from trainers.probing.divisions import Division, make_divisions


def corpus() -> CorpusIndex:
    """Ten speakers in five sessions, with 8 to 17 utterances each."""
    speakers = [f"s{number}" for number in range(10) for _ in range(8 + number)]
    return make_index(speakers, [place % 3 for place in range(len(speakers))])


def divide(folds: str, *, select_on_test: bool = False, seed: int = 0) -> list[Division]:
    return make_divisions(corpus(), folds, seed=seed, select_on_test=select_on_test)


@pytest.mark.parametrize(
    ("folds", "number"), [("speaker", 10), ("session", 5), ("speaker:4", 4), ("random:10", 10)]
)
def test_every_utterance_is_tested_once(folds: str, number: int) -> None:
    """The three parts of a division are all utterances, and each is tested by one division."""
    divisions = divide(folds)
    assert len(divisions) == number
    tested = np.concatenate([one.test for one in divisions])
    np.testing.assert_array_equal(np.sort(tested), np.arange(len(corpus())))
    for one in divisions:
        parts = np.concatenate([one.train, one.validation, one.test])
        np.testing.assert_array_equal(np.sort(parts), np.arange(len(corpus())))


def test_a_speaker_is_tested_and_another_validates() -> None:
    """Of ten speakers, eight train, one validates, one is tested."""
    speakers = corpus().speaker_of_rows
    for one in divide("speaker"):
        assert [len(set(speakers[part])) for part in (one.train, one.validation, one.test)] == [
            8,
            1,
            1,
        ]
        assert set(speakers[one.test]) == {one.name}


def test_random_folds_are_80_10_10() -> None:
    """Of ten random folds, one validates and one is tested."""
    for one in divide("random:10"):
        shares = np.asarray([len(one.train), len(one.validation), len(one.test)]) / len(corpus())
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1], atol=0.02)


def test_a_session_is_tested_and_a_fifth_of_the_others_validates() -> None:
    """The draw follows from the seed, and is over utterances, so that speakers are shared."""
    sessions = np.asarray(corpus().texts("session"))
    for one in divide("session"):
        assert set(sessions[one.test]) == {one.name}
        rest = len(one.train) + len(one.validation)
        assert len(one.validation) == round(0.2 * rest)
        assert set(sessions[one.validation]) == set(sessions[one.train])

    validation = [divide("session", seed=seed)[0].validation.tolist() for seed in (0, 0, 1)]
    assert validation[0] == validation[1] != validation[2]


def test_splits_are_those_of_the_json() -> None:
    """One division, by the json; a corpus that lacks a split is refused."""
    (one,) = divide("split")
    splits = np.asarray(corpus().table["split"].to_pylist())
    assert set(splits[one.validation]) == {"validation"}
    with pytest.raises(ConfigError, match="no utterance has the split validation or test"):
        make_divisions(make_index(["s0"], [0]), "split", seed=0, select_on_test=False)


def test_selection_on_the_test_fold_trains_on_the_rest() -> None:
    """The tested utterances validate, and those that would validate train."""
    for plain, starred in zip(
        divide("speaker:4"), divide("speaker:4", select_on_test=True), strict=True
    ):
        np.testing.assert_array_equal(starred.validation, plain.test)
        np.testing.assert_array_equal(starred.test, plain.test)
        assert len(starred.train) == len(plain.train) + len(plain.validation)


def test_a_table_of_keys_gives_the_folds(tmp_path: Path) -> None:
    """Folds have the names of the table; a key without a fold is named."""
    keys = corpus().table["key"].to_pylist()
    path = tmp_path / "folds.csv"
    lines = [f"{key},Ses{place % 5 + 1}" for place, key in enumerate(keys)]
    path.write_text("\n".join(["key,fold", *reversed(lines)]))

    divisions = divide(f"given:{path}")
    assert [one.name for one in divisions] == ["Ses1", "Ses2", "Ses3", "Ses4", "Ses5"]
    np.testing.assert_array_equal(divisions[1].test, np.arange(1, len(keys), 5))

    path.write_text("\n".join(["key,fold", *lines[1:]]))
    with pytest.raises(ConfigError, match=f"has no fold for 1 of {len(keys)} .* such as {keys[0]}"):
        divide(f"given:{path}")
    path.write_text("name,fold\na,b")
    with pytest.raises(ConfigError, match="expected `key` and `fold`"):
        divide(f"given:{path}")
