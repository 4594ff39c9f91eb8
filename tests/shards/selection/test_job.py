"""`select` as a job: from tables on disk to a selection folder that other commands can trust."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.selection import job as select_job
from shards.selection.job import read_selection, select
from shards.selection.rule import SelectConfig
from shards.tables.predictions import Prediction, write_predictions
from tests.shards.selection.inputs import INFO, draw_distributions, one_hot

NUM_SPEAKERS = 8


def write_tables(
    folder: Path, names: tuple[str, ...] = ("a", "b", "c"), *, reverse: bool = False
) -> None:
    """A table of 80 utterances a shard; the rows' keys are the same in every shard."""
    folder.mkdir()
    for number, name in reversed(list(enumerate(names))) if reverse else enumerate(names):
        generator = np.random.default_rng(number)
        truth = generator.choice([0, 1, 4, 6], 80)
        text, vision = (draw_distributions(truth, generator).astype(np.float32) for _ in range(2))

        rows = [
            Prediction(
                key=f"k{row:03d}",
                shard=f"{name}.tar",
                offset=row * 1024,
                size=1024,
                speaker=f"s{generator.integers(NUM_SPEAKERS)}",
                duration_seconds=2.0,
                text=text[row],
                vision=vision[row],
                emotion=("neutral", "anger", "", "", "happiness", "", "surprise")[truth[row]],
            )
            for row in range(79)
        ]
        rows.append(
            Prediction(
                key="bad",
                shard=f"{name}.tar",
                offset=79 * 1024,
                size=512,
                error="bad_json: json: x",
            )
        )

        info = dataclasses.replace(
            INFO, shard=f"{name}.tar", shard_url=f"/c/{name}.tar", num_rows=len(rows)
        )
        write_predictions(
            str(folder / f"{name}-0123456789ab.parquet"), rows[::-1] if reverse else rows, info
        )


def run(
    folder: Path, predictions: str = "predictions", out: str = "selection", **options: Any
) -> dict[str, Any]:
    settings = {"teachers": ("text", "vision"), "min_per_speaker": 3} | options
    return select(
        SelectConfig(predictions=str(folder / predictions), out=str(folder / out), **settings)
    )


def test_kept_and_rejected_are_every_row(tmp_path: Path) -> None:
    """Both files together hold every utterance of every table, also where shards share keys."""
    write_tables(tmp_path / "predictions")
    summary = run(tmp_path, keep_rates={"neutral": 0.5})

    kept = pq.read_table(tmp_path / "selection" / "selection.parquet")
    rejected = pq.read_table(tmp_path / "selection" / "rejected.parquet")
    copied = ["key", "shard", "offset", "size", "speaker", "duration_seconds"]
    assert kept.column_names == [*copied, "label", "probs", "distance", "split"]
    assert rejected.column_names == ["key", "shard", "reason"]

    pairs = [(row["key"], row["shard"]) for table in (kept, rejected) for row in table.to_pylist()]
    assert len(pairs) == len(set(pairs)) == 240 == summary["num_utterances"]
    assert summary["num_kept"] == kept.num_rows > 0
    assert {row["reason"] for row in rejected.to_pylist() if row["key"] == "bad"} == {
        "bad_json: json: x"
    }


def test_an_error_is_a_reason_where_it_is_about_what_was_asked(tmp_path: Path) -> None:
    """A row's error explains a teacher's silence only where it may be the cause.

    It may be where this teacher alone is silent, or where all are.
    """
    (tmp_path / "predictions").mkdir()
    happy = one_hot("happiness")
    said = {
        "all": {"audio": happy, "vision": happy, "text": happy},
        "no-face": {"audio": happy, "text": happy},
        "no-face-no-words": {"audio": happy},
        "nothing": {},
    }

    rows = [
        Prediction(
            key=key,
            shard="a.tar",
            offset=n * 512,
            size=512,
            speaker="s",
            error="no_face: none" if n else None,
            **found,
        )
        for n, (key, found) in enumerate(said.items())
    ]
    write_predictions(str(tmp_path / "predictions" / "a-0123456789ab.parquet"), rows, INFO)

    for teachers, unheard in ((("text", "audio"), "text"), (("text", "vision"), "text")):
        run(tmp_path, teachers=teachers, min_per_speaker=0)
        found = pq.read_table(tmp_path / "selection" / "rejected.parquet").to_pylist()
        reasons = {row["key"]: row["reason"] for row in found}

        assert reasons["nothing"] == "no_face: none"
        assert (
            reasons["no-face-no-words"]
            == f"missing_prediction: teacher '{unheard}' gives no prediction"
        )
        assert reasons.get("no-face") == ("no_face: none" if "vision" in teachers else None)


def test_what_is_written_follows_from_the_tables(tmp_path: Path) -> None:
    """Label, probabilities and distance of a kept row are those of its two predictions."""
    write_tables(tmp_path / "predictions", ("a",))
    run(tmp_path)

    predictions = {row["key"]: row for row in pq.read_table(tmp_path / "predictions").to_pylist()}
    for row in pq.read_table(tmp_path / "selection" / "selection.parquet").to_pylist():
        text, vision = (
            np.array(predictions[row["key"]][name], dtype=np.float64) for name in ("text", "vision")
        )

        np.testing.assert_allclose(row["probs"], (text + vision) / 2, rtol=1e-6)
        assert row["distance"] == pytest.approx(float((text * np.log(text / vision)).sum()))
        assert row["distance"] <= 1.0
        names = ("neutral", "anger", "disgust", "fear", "happiness", "sadness", "surprise")
        assert row["label"] == names[int(np.argmax(row["probs"]))]


def test_the_same_tables_give_the_same_bytes(tmp_path: Path) -> None:
    """Whoever wrote the tables, and in which order, the selection is the same file."""
    write_tables(tmp_path / "predictions")
    write_tables(tmp_path / "shuffled", reverse=True)
    run(tmp_path, out="one", keep_rates={"neutral": 0.5})
    run(tmp_path, "shuffled", out="two", keep_rates={"neutral": 0.5})

    for name in ("selection.parquet", "rejected.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    one, two = (json.loads((tmp_path / out / "summary.json").read_text()) for out in ("one", "two"))
    assert {**one, "config": 0} == {**two, "config": 0}


def test_one_teacher_has_null_distances(tmp_path: Path) -> None:
    """Nothing to compare is null in the table, not 0 and not NaN."""
    write_tables(tmp_path / "predictions")
    summary = run(tmp_path, teachers=("vision",))
    distance = pq.read_table(tmp_path / "selection" / "selection.parquet")["distance"]
    assert distance.null_count == len(distance) == summary["num_kept"] > 0


def test_the_resolved_configuration_is_saved(tmp_path: Path) -> None:
    """select.yaml repeats the very same selection; the summary on disk is the one returned."""
    write_tables(tmp_path / "predictions")
    summary = run(tmp_path, keep_rates={"neutral": "1/2"})

    saved = yaml.safe_load((tmp_path / "selection" / "select.yaml").read_text())
    assert from_mapping(SelectConfig, saved).keep_rates == {"neutral": "1/2"}
    on_disk = json.loads((tmp_path / "selection" / "summary.json").read_text())
    assert on_disk == json.loads(json.dumps(summary))


def test_a_teacher_the_panel_does_not_have_is_refused(tmp_path: Path) -> None:
    """The error names the unknown teacher and the labelers of the panel."""
    write_tables(tmp_path / "predictions")
    with pytest.raises(
        ConfigError, match=r"--teachers audio: no utterance.*labelers: audio, text, vision"
    ):
        run(tmp_path, teachers=("text", "audio"))
    assert not (tmp_path / "selection").exists()


def test_a_selection_is_read_back_with_its_shards(tmp_path: Path) -> None:
    """A selection that is read back names the files its utterances came from."""
    write_tables(tmp_path / "predictions")
    run(tmp_path)
    table, shards = read_selection(str(tmp_path / "selection"), ["key", "label"])
    assert table.column_names == ["key", "label"]
    assert sorted(shards) == ["a.tar", "b.tar", "c.tar"]
    assert shards["b.tar"] == select_job.ShardVersion(url="/c/b.tar", size=1024, version="1")


def test_an_unfinished_selection_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that dies over an earlier selection leaves no summary, and so nothing to pack."""
    write_tables(tmp_path / "predictions")
    run(tmp_path)
    monkeypatch.setattr(select_job, "_rejected_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(tmp_path, min_per_speaker=5)
    with pytest.raises(
        ConfigError, match=r"no summary.json, expected a finished selection.*emostream select"
    ):
        read_selection(str(tmp_path / "selection"), ["key"])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_damaged_selection_is_refused_with_the_remedy(tmp_path: Path, share: float) -> None:
    """A flipped byte or a missing end is an error that names the file and the remedy."""
    write_tables(tmp_path / "predictions")
    run(tmp_path)

    path = tmp_path / "selection" / "selection.parquet"
    data = bytearray(path.read_bytes())
    if share:
        data[int(share * len(data) * 0.3) + 8] ^= 0xFF
    path.write_bytes(data if share else data[: len(data) // 2])

    with pytest.raises(
        ConfigError,
        match=r"(?s)selection.parquet: not a readable selection.*run `emostream select` again",
    ):
        read_selection(
            str(tmp_path / "selection"),
            ["key", "shard", "offset", "size", "speaker", "label", "probs"],
        )


def test_a_foreign_parquet_file_is_not_a_selection(tmp_path: Path) -> None:
    """A selection.parquet without this project's footer is refused."""
    write_tables(tmp_path / "predictions")
    run(tmp_path)
    path = tmp_path / "selection" / "selection.parquet"
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(ConfigError, match="got selection format None, expected 2"):
        read_selection(str(tmp_path / "selection"), ["key"])


def test_selecting_works_on_remote_folders(tmp_path: Path) -> None:
    """Tables and selection may both lie behind a URL."""
    write_tables(tmp_path / "predictions")
    config = SelectConfig(
        predictions=str(tmp_path / "predictions"),
        out="memory://select-job-test/selection",
        teachers=("text", "vision"),
        min_per_speaker=3,
    )
    assert select(config)["num_kept"] == select(config)["num_kept"] > 0
    assert read_selection(config.out, ["key"])[0].num_rows > 0


def test_an_unreadable_corpus_has_a_summary(tmp_path: Path) -> None:
    """Where no shard could be read, the selection is empty and says why."""
    (tmp_path / "predictions").mkdir()
    info = dataclasses.replace(INFO, shard_error="not_a_tar: begins with <html>")
    write_predictions(str(tmp_path / "predictions" / "a-1.parquet"), [], info)
    summary = run(tmp_path)
    assert summary["num_utterances"] == summary["num_kept"] == 0
    assert summary["shards"]["unreadable"] == [
        {"shard": "a.tar", "error": "not_a_tar: begins with <html>"}
    ]
