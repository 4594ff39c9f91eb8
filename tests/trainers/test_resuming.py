"""Only some options may differ in a resumed run; another value of the others is named."""

from pathlib import Path
from typing import Any

import pytest

from shards.config import ConfigError
from shards.config_values import from_mapping
from trainers.config import TrainConfig
from trainers.resuming import refuse_another_run, resolved_options, write_config


def config(out: Path, **values: Any) -> TrainConfig:
    return from_mapping(
        TrainConfig, {"recipe": "setpeer", "shards": "*.tar", "out": str(out)} | values
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "finetune"}, "recipe: got finetune, the run was started with setpeer"),
        (
            {"encoder": {"hidden_size": 32}},
            "encoder.hidden_size: got 32, the run was started with 64",
        ),
        ({"engine": {"zero_stage": 1}}, "engine.zero_stage: got 1, the run was started with 0"),
        (
            {"engine": {"learning_rate": 0.5}},
            "engine.learning_rate: got 0.5, the run was started with 0.001",
        ),
        (
            {"data": {"target": {"kind": "emotion"}}},
            "data.target.kind: got emotion, the run was started with label",
        ),
        ({"model": {"num_codes": 16}}, "model.num_codes: got 16, the run was started with 512"),
    ],
)
def test_another_run_is_refused_by_its_options(
    tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    """Options of what is learned, of how, and of how its state is divided must not change."""
    write_config(tmp_path, config(tmp_path))
    with pytest.raises(ConfigError) as refused:
        refuse_another_run(tmp_path, config(tmp_path, **values))
    assert message in str(refused.value)
    assert "or another --out" in str(refused.value)


def test_where_and_how_long_it_runs_may_differ(tmp_path: Path) -> None:
    """A run may move and last longer, and a default that is written out is no difference."""
    write_config(tmp_path, config(tmp_path))
    changed = {
        "address": "auto",
        "resume": True,
        "shards": "moved/*.tar",
        "model": {"num_codes": 512},
    }
    engine = {"num_steps": 9, "patience": 3, "trackers": ["wandb"]}
    refuse_another_run(tmp_path, config(tmp_path / "moved", **changed, engine=engine))


def test_a_lost_configuration_is_said(tmp_path: Path) -> None:
    """Without its configuration, a run cannot be resumed, as nothing tells what it was."""
    with pytest.raises(ConfigError, match=r"config\.yaml is missing or damaged"):
        refuse_another_run(tmp_path, config(tmp_path))


def test_every_option_is_among_those_resolved(tmp_path: Path) -> None:
    """What trackers get has options of all groups, defaults of the recipe included."""
    found = dict(resolved_options(config(tmp_path, model={"num_codes": 16})))
    assert found["recipe"] == "setpeer"
    assert (found["model.num_codes"], found["model.num_prefixes"]) == (16, 4)
    assert (found["encoder.hidden_size"], found["data.target.kind"]) == (64, "label")
