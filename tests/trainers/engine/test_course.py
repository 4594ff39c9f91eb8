"""A run that gets more steps goes on as it is told, and the rates are those by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shards.config import ConfigError
from tests.worlds.training import small_config, write_training_world
from trainers.engine.checkpoints import RESULT_NAME
from trainers.engine.course import Course, Leg
from trainers.settings.engine import EngineConfig
from trainers.training import run_training


def course(extend: str | None) -> Course:
    config = EngineConfig(schedule="linear", warmup_share=0.0, extend=extend)  # type: ignore[arg-type] # one of the choices
    return Course([Leg(begin=0, end=4)], config)


def test_a_rate_goes_on_as_it_is_told() -> None:
    """A fall of 4 steps that gets 4 more begins anew, or stays where it was."""
    again = course("rewarm").extended(4, 8)
    assert [again.rate(step) for step in range(8)] == [1, 0.75, 0.5, 0.25] * 2

    stays = course("constant").extended(2, 5)
    assert [stays.rate(step) for step in range(5)] == [1, 0.75, 0.75, 0.75, 0.75]
    assert stays.extended(3, 5) is stays


def test_another_number_of_steps_is_refused() -> None:
    """Without engine.extend nothing says how the rate goes on; the same number is no change."""
    with pytest.raises(ConfigError, match=r"got 8 steps, .* with 4, .*engine\.extend to rewarm"):
        course(None).extended(4, 8)
    assert course(None).extended(3, 4).legs == (Leg(begin=0, end=4),)


def test_steps_and_epochs_are_not_given_together() -> None:
    """Also a number of steps that is the default is a second answer to one question."""
    with pytest.raises(ConfigError, match="num_epochs: got 3 and num_steps 800"):
        EngineConfig(num_epochs=3, num_steps=800)
    assert EngineConfig().max_steps == 800


def test_a_longer_run_has_its_own_result_and_logs_the_rate_of_each_step(tmp_path: Path) -> None:
    """The old result is gone while the run goes on; the optimizer's rates are those logged."""
    torch.set_num_threads(1)
    shards = write_training_world(tmp_path / "packed")
    engine = {"num_steps": 4, "schedule": "linear", "warmup_share": 0.0, "learning_rate": 0.01}
    run_training(small_config(shards, tmp_path / "run", "finetune", **engine))

    longer = replace(
        small_config(shards, tmp_path / "run", "finetune", **engine | {"num_steps": 8}), resume=True
    )
    with pytest.raises(ConfigError, match=r"engine\.extend"):
        run_training(longer)
    assert (tmp_path / "run" / RESULT_NAME).exists()

    seen: list[bool] = []

    def look(step: int, num_steps: int, note: str = "") -> None:
        seen.append((tmp_path / "run" / RESULT_NAME).exists())

    extended = replace(longer, engine=replace(longer.engine, extend="rewarm"))
    assert run_training(extended, look).steps == 8
    assert not any(seen[-4:])

    lines = [json.loads(x) for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["learning_rate"] for line in lines if "learning_rate" in line]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.0025] * 2)
