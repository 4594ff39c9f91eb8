"""`--where`: conditions on columns and on any field of the json, each a reason of its own."""

import dataclasses
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.config import ConfigError
from shards.selection.job import select
from shards.selection.rule import SelectConfig
from shards.selection.where import Condition, filtered
from shards.tables.predictions import Prediction, write_predictions
from tests.shards.selection.inputs import INFO, one_hot

ROWS = [
    {"language": "en", "age": 30, "demographics": {"sex": "f"}, "split": "train", "ok": True},
    {"language": "zh", "age": "31", "demographics": {"sex": "m"}, "split": "test"},
    {"language": "de", "age": 29.5, "split": "train"},
    {},
]


def table() -> pa.Table:
    return pa.table(
        {
            "duration_seconds": pa.array([0.5, 2.0, None, 3.0], pa.float64()),
            "speaker": ["ann", "bo", "cy", None],
            "metadata": [json.dumps(row) for row in ROWS],
        }
    )


@pytest.mark.parametrize(
    ("condition", "kept"),
    [
        ("language=en", [0]),
        ("age=30.0", [0]),
        ("language=en|de", [0, 2]),
        ("language!=en", [1, 2, 3]),
        ("duration_seconds>=1", [1, 3]),
        ("duration_seconds < 2.5", [0, 1]),
        ("age>29.9", [0, 1]),
        ("age=30", [0]),
        ("age=31", [1]),
        ("demographics.sex=f", [0]),
        ("split!=test", [0, 2, 3]),
        ("speaker=bo|cy", [1, 2]),
        ("ok=true", [0]),
        ("ok=1", []),
    ],
)
def test_conditions_by_hand(condition: str, kept: list[int]) -> None:
    """What meets a condition stays; the others carry it as their reason."""
    reasons = filtered(table(), [condition]).tolist()
    assert [row for row, reason in enumerate(reasons) if reason is None] == kept
    assert {reason for reason in reasons if reason} == {f"filtered: {condition.replace(' ', '')}"}


def test_the_first_condition_that_fails_is_the_reason() -> None:
    """Every condition must be met; the reason names one of them."""
    reasons = filtered(table(), ["language=en|zh", "duration_seconds>=1"])
    assert reasons.tolist() == [
        "filtered: duration_seconds>=1",
        None,
        "filtered: language=en|zh",
        "filtered: language=en|zh",
    ]


@pytest.mark.parametrize(
    "text", ["language", "=en", "language=", "a b=c", "duration_seconds>long", ""]
)
def test_what_is_no_condition_is_refused(text: str) -> None:
    """The error shows what was got and an example of what is expected."""
    with pytest.raises(ConfigError, match="--where"):
        Condition.parse(text)


def test_a_field_that_nobody_has_is_a_mistake() -> None:
    """A misspelled field would filter out everything; tables without json cannot be asked."""
    with pytest.raises(ConfigError, match="tongue: no utterance has this field"):
        filtered(table(), ["tongue=en"])
    old = table().set_column(2, "metadata", pa.nulls(4, pa.string()))
    with pytest.raises(ConfigError, match="do not hold the json"):
        filtered(old, ["language=en"])


def test_filtered_utterances_count_for_nothing(tmp_path: Path) -> None:
    """`select --where` rejects with the reason, and tables of an earlier release still select."""
    happy = one_hot("happiness")
    rows = [
        Prediction(
            key=f"k{number}",
            shard="a.tar",
            offset=number * 512,
            size=512,
            speaker="ann",
            duration_seconds=1.0 + number,
            text=happy,
            vision=happy,
            metadata=json.dumps(metadata),
        )
        for number, metadata in enumerate(ROWS)
    ]
    plain = [dataclasses.replace(row, shard="b.tar", metadata=None) for row in rows]
    folder = tmp_path / "predictions"
    folder.mkdir()
    for name, members in {"a": rows, "b": plain}.items():
        info = dataclasses.replace(INFO, shard=f"{name}.tar", shard_url=f"/c/{name}.tar")
        write_predictions(str(folder / f"{name}.parquet"), members, info)

    summary = select(
        SelectConfig(
            predictions=str(folder),
            out=str(tmp_path / "out"),
            teachers=("text", "vision"),
            min_per_speaker=0,
            where=("language=en|de", "duration_seconds>=2"),
        )
    )

    rejected = pq.read_table(tmp_path / "out" / "rejected.parquet").to_pylist()
    assert summary["num_kept"] == 1
    assert summary["classes"]["counts_before"]["happiness"] == 1
    assert summary["rejected"] == {"filtered": 7}
    assert rejected[0] == {"key": "k0", "shard": "a.tar", "reason": "filtered: duration_seconds>=2"}
