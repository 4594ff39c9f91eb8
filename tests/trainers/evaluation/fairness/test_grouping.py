"""Fields of the json divide utterances into groups, of which small ones are told."""

from pathlib import Path

import pytest

from shards.config import ConfigError
from shards.loading.index import CorpusIndex, read_index
from shards.samples.sample import Sample
from tests.worlds.small import write_shard
from trainers.evaluation.fairness.grouping import divide


def corpus(folder: Path, people: list[dict[str, object]], per_speaker: int = 1) -> CorpusIndex:
    """Utterances of speakers with these demographics."""
    samples = [
        Sample(
            key=f"u{number:03d}-{again:03d}",
            transcript="a",
            metadata={"speaker": f"s{number}", "demographics": one, "sex": "at the top"},
        )
        for number, one in enumerate(people)
        for again in range(per_speaker)
    ]
    write_shard(folder / "a.tar", samples)
    return read_index(f"{folder}/a.tar")


def test_ages_are_banded_and_the_rest_is_unknown(tmp_path: Path) -> None:
    """Bands of ten years from 20 on, the last from 60 on; the short name finds demographics."""
    ages = [19, 20, 29, 30, 45.5, 59, 60, 74, None, "old"]
    people = [{} if age is None else {"age": age} for age in ages]
    index = corpus(tmp_path, people)
    grouping = divide(index, "age")
    assert [grouping.names[place] for place in grouping.place.tolist()] == [
        "below 20", "20s", "20s", "30s", "40s", "50s", "60+", "60+", "unknown", "old",
    ]  # fmt: skip
    assert divide(index, "demographics.age").names == grouping.names


def test_a_field_of_the_json_itself_comes_first(tmp_path: Path) -> None:
    """`sex` is the json's own where it has one, and that of the demographics by its path."""
    index = corpus(tmp_path, [{"sex": "Male"}, {"sex": "Female"}])
    assert divide(index, "sex").names == ["at the top"]
    assert divide(index, "demographics.sex").names == ["Female", "Male"]
    with pytest.raises(ConfigError, match="--groups race: no utterance has this field"):
        divide(index, "race")


def test_small_groups_say_how_small_they_are(tmp_path: Path) -> None:
    """29 utterances or 4 speakers are too few, 30 utterances of 5 speakers are enough."""
    people = [{"race": name} for name in "aaaaabbbb"]
    grouping = divide(corpus(tmp_path, people, per_speaker=6), "race")
    assert grouping.reasons == [None, "24 utterances of 4 speakers"]
    (tmp_path / "fewer").mkdir()
    grouping = divide(corpus(tmp_path / "fewer", people, per_speaker=1), "race")
    assert grouping.reasons == ["5 utterances of 5 speakers", "4 utterances of 4 speakers"]


def test_numbers_are_no_groups(tmp_path: Path) -> None:
    """More than fifty values are refused, but any number of ages are few bands."""
    people = [{"height": 150 + n, "age": 20 + n} for n in range(51)]
    index = corpus(tmp_path, people)
    with pytest.raises(ConfigError, match="got 51 different values, expected at most 50"):
        divide(index, "height")
    assert len(divide(index, "age").names) == 5
