"""Options that cannot work are refused before anything is loaded, with the remedy."""

import subprocess
import sys
from typing import Any

import pytest

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from tests import ROOT
from trainers.config import TrainConfig
from trainers.models.personal.speaker_prefix import NUM_HEADS
from trainers.recipes.recognition.config import SetPeerConfig


def config(recipe: str = "setpeer", **values: Any) -> TrainConfig:
    return from_mapping(TrainConfig, {"recipe": recipe, "shards": "*.tar", "out": "run"} | values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "magic"}, "recipe: got 'magic', expected one of finetune, setpeer, weighting"),
        ({"num_workers": 0}, "--num-workers: got 0"),
        ({"engine": {"zero_stage": 4}}, "zero_stage: got 4"),
        ({"engine": {"warmup_share": 1.0}}, "warmup_share: got 1.0"),
        ({"engine": {"betas": (0.9,)}}, "betas: got .*, expected two shares below 1"),
        ({"engine": {"betas": (0.9, 1.0)}}, "betas: got .*, expected two shares below 1"),
        ({"engine": {"epsilon": 0.0}}, "epsilon: got 0.0, expected more than 0"),
        ({"engine": {"num_epochs": 0}}, "num_epochs: got 0, expected at least 1"),
        (
            {"engine": {"num_epochs": 2, "num_steps": 10}},
            "num_epochs: got 2 and num_steps 10; give one of them",
        ),
        ({"engine": {"trackers": "comet"}}, "trackers: got comet, expected mlflow or wandb"),
        ({"engine": {"weight_decay": -1.0}}, "weight_decay: got -1.0, expected 0 or more"),
        ({"encoder": {"dropout": 2.0}}, "dropout: got 2.0, expected a share below 1"),
        ({"encoder": {"freeze_layers": -1}}, "freeze_layers: got -1, expected 0 or more"),
        ({"model": {"head_dropout": 1.0}}, "head_dropout: got 1.0, expected a share below 1"),
        (
            {"model": {"code_width": 10}},
            f"code_width: got 10, expected a multiple of P's {NUM_HEADS} heads",
        ),
        (
            {
                "model": {"class_weights": "balanced"},
                "data": {"target": {"kind": "values", "values": ["arousal"]}},
            },
            "model.class_weights: got balanced for data.target.kind values",
        ),
        (
            {"encoder": {"hidden_size": 30}},
            "hidden_size: got 30, expected a multiple of num_heads 4",
        ),
        ({"model": {"codes": 3}}, "codes"),
        ({"model": {"fusion": "addition"}}, "num_prefixes: got 4, expected 1"),
        (
            {"num_workers": 2, "engine": {"batches_per_step": 3}},
            "batches_per_step: got 3 for 2 workers",
        ),
    ],
)
def test_options_that_cannot_work_are_refused(values: dict[str, Any], message: str) -> None:
    """The message names the option, what was got and what was expected."""
    with pytest.raises(ConfigError, match=message):
        config(**values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neighbors": 0}, "neighbors: got 0"),
        ({"weight": 1.0}, "weight: got 1.0, expected more than 1"),
        ({"explained_variance": 1.0}, "explained_variance: got 1.0"),
        ({"target_split": "train"}, "target_split: got train"),
    ],
)
def test_weights_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    """Options of weighting are refused before any sound is read."""
    with pytest.raises(ConfigError, match=message):
        config("weighting", model=options)


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        ("setpeer", {}, "got class_balanced for setpeer, expected shuffled: a speaker's sets"),
        ("tapt", {}, "got class_balanced for tapt, expected shuffled: it uses no labels"),
        ("finetune", {"model": {"class_weights": "balanced"}}, "rare classes twice"),
        (
            "weighting",
            {"data": {"target": {"kind": "values", "values": ["arousal"]}}},
            "got class_balanced for data.target.kind values",
        ),
    ],
)
def test_class_balance_that_cannot_be_is_refused(
    recipe: str, values: dict[str, Any], message: str
) -> None:
    """The error names the recipe and the reason, and nothing is balanced twice."""
    data = values.get("data", {}) | {"sampling": "class_balanced"}
    with pytest.raises(ConfigError, match=message):
        config(recipe, **values | {"data": data})


@pytest.mark.parametrize("data", [{"num_speakers": 3}, {"known_seconds": 2.0}])
def test_adaptation_hears_all_speakers(data: dict[str, Any]) -> None:
    """Options that choose labeled speakers are refused where they would do nothing."""
    with pytest.raises(ConfigError, match="got a value for tapt, which uses no labels"):
        config("tapt", data=data)


@pytest.mark.parametrize(
    ("encoder", "by_default", "freezes"),
    [
        ({"checkpoint": "hubert"}, True, True),
        ({"checkpoint": "hubert"}, False, False),
        ({"checkpoint": "hubert", "freeze_front_end": False}, True, False),
        ({"checkpoint": "hubert", "freeze_front_end": True}, False, True),
        ({}, True, False),
    ],
)
def test_a_recipe_decides_on_convolutions_unless_told(
    encoder: dict[str, Any], by_default: bool, freezes: bool
) -> None:
    """A checkpoint's front end is frozen as the recipe or the option says; a new one never is."""
    assert config(encoder=encoder).encoder.freezes_front_end(by_default=by_default) == freezes


def test_a_saved_configuration_is_the_same_again() -> None:
    """The configuration that stands beside a run's output starts the same run."""
    before = config(model={"num_codes": 16}, engine={"trackers": "mlflow", "schedule": "linear"})
    assert from_mapping(TrainConfig, to_mapping(before)) == before
    options = before.recipe_config()
    assert isinstance(options, SetPeerConfig)
    assert (options.num_codes, options.num_prefixes) == (16, 4)


def test_help_needs_no_torch() -> None:
    """Neither the options nor the command import torch, DeepSpeed or Ray."""
    code = (
        "import sys, cluster.training.train, trainers.config; print({'torch', 'deepspeed', 'ray'} "
        "& set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
