"""`data.max_seconds` bounds the batches of every recipe, and names what it leaves out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.index import CorpusIndex, read_index
from shards.loading.loader import read_once
from tests.worlds.training import small_values, write_training_world
from trainers.config import TrainConfig
from trainers.preparation.length_limit import LEFT_OUT_NAME, LengthLimit
from trainers.settings.data import DataConfig
from trainers.training import make_task, run_training

LIMIT = 0.3  # seconds; the world's utterances have 0.2 to 0.4
RECIPES: dict[str, dict[str, Any]] = {
    "finetune": {},
    "setpeer": {"code_width": 8, "num_codes": 16, "num_prefixes": 2},
    "weighting": {"neighbors": 2},
    "tapt": {"num_labels": 8, "min_samples": 1600, "mask_length": 2, "mask_probability": 0.6},
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def config(shards: str, out: Path, recipe: str, **data: Any) -> TrainConfig:
    values = small_values(shards, out, recipe, num_steps=2, validate_every=2)
    values["data"] |= data
    return from_mapping(TrainConfig, values | {"model": RECIPES[recipe]})


@pytest.mark.parametrize("recipe", ["finetune", "setpeer", "weighting"])
def test_batches_are_cut_and_planned_with_the_limit(
    shards: str, tmp_path: Path, recipe: str
) -> None:
    """No batch of training or validation is longer, and more utterances fit into one."""
    corpus = read_index(shards)
    task = make_task(config(shards, tmp_path, recipe, max_seconds=LIMIT), corpus)
    plans = (
        (task.training_reader(), task.plan().epoch(0)),
        (task.validation_reader(), task.validation_batches()),
    )
    for reader, planned in plans:
        lengths = [batch.inputs["sound"].values.shape[1] for batch in read_once(reader, planned)]
        assert max(lengths) == LIMIT * 16_000

    if recipe == "finetune":
        whole = make_task(config(shards, tmp_path, recipe), corpus)
        assert len(task.plan().epoch(0)) < len(whole.plan().epoch(0))


@pytest.mark.parametrize("longer", ["crop", "leave_out"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_within_the_limit(
    shards: str, tmp_path: Path, recipe: str, longer: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Utterances are cut, or they are left out, counted and named in the log and in a file."""
    data: dict[str, Any] = {"max_seconds": LIMIT, "longer": longer}
    if recipe == "setpeer":
        data["sets"] = {"num_sets": 2, "set_size": 2, "short_speakers": "leave_out"}
    run_training(config(shards, tmp_path / "run", recipe, **data))

    file = tmp_path / "run" / LEFT_OUT_NAME
    assert file.exists() == (longer == "leave_out")
    if longer == "crop":
        return

    corpus = read_index(shards)
    splits = ("train",) if recipe == "tapt" else ("train", "validation")
    chosen = corpus.split(*splits)
    expected = set(chosen.keys(np.flatnonzero(chosen.durations > LIMIT)))
    listed = json.loads(file.read_text(encoding="utf-8"))
    assert {one["key"] for one in listed} == expected
    assert {one["split"] for one in listed} == set(splits)
    assert "of 36 utterances of the split train are longer than data.max_seconds 0.3" in caplog.text
    assert f"{listed[0]['key']} ({listed[0]['duration_seconds']:.1f} s)" in caplog.text


def test_adaptation_cuts_to_the_smaller_of_both_limits(shards: str, tmp_path: Path) -> None:
    """`model.max_samples` cuts already, with its labels; the limit of the data may be tighter."""
    corpus = read_index(shards)
    for seconds, expected in ((0.3, 4800), (100.0, 250_000)):
        task = make_task(config(shards, tmp_path, "tapt", max_seconds=seconds), corpus)
        assert f" {expected} " in task.identity


def test_a_length_that_is_not_known_is_refused(shards: str) -> None:
    """Without durations nobody knows what to leave out; sound that is cut tells when decoded."""
    corpus = read_index(shards).split("train")
    place = corpus.table.schema.get_field_index("duration_seconds")
    unknown = pa.nulls(len(corpus), pa.float64())
    index = CorpusIndex(corpus.table.set_column(place, "duration_seconds", unknown))

    for data in ({"longer": "leave_out"}, {"modality": "face"}):
        limit = LengthLimit(from_mapping(DataConfig, {"max_seconds": 3.0} | data), seed=0)
        with pytest.raises(ConfigError, match="some json gives no `duration_seconds` above 0"):
            limit.within(index, "train")

    for known in (DataConfig(), DataConfig(max_seconds=3.0)):
        assert LengthLimit(known, seed=0).within(index, "train") is index


def test_limits_that_cannot_work_are_refused(shards: str) -> None:
    """A limit that leaves nothing is refused with the shortest length, and so is cutting clips."""
    train = read_index(shards).split("train")
    with pytest.raises(ConfigError, match=r"every utterance of the split train is longer.* 0\.2 s"):
        LengthLimit(DataConfig(max_seconds=0.1, longer="leave_out"), seed=0).within(train, "train")
    with pytest.raises(ConfigError, match="clips have as many pictures whatever their length is"):
        DataConfig(modality="video", max_seconds=3.0)
    with pytest.raises(ConfigError, match=r"max_seconds: got 0\.0, expected more than 0"):
        DataConfig(max_seconds=0.0)
