"""A family of recipes is a folder and a line in the registry, as one shows that is not ours."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from cluster.cli import main
from shards.config import ConfigError
from tests.worlds.training import small_values, write_training_world
from trainers.recipes import registry
from trainers.recipes.registry import recipe_called, recipes


@pytest.fixture
def toy_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the toy family's line to the registry."""
    monkeypatch.setattr(registry, "FAMILIES", [*registry.FAMILIES, "tests.worlds.toy_family"])


@pytest.mark.usefixtures("toy_family")
def test_a_new_family_trains_evaluates_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new family works with the same commands, and its options tell its runs apart."""
    torch.set_num_threads(1)
    shards = write_training_world(tmp_path / "packed")
    evaluations = []
    for name, recipe, model in (
        ("finetune", "finetune", {}),
        ("mild", "smoothed", {}),
        ("strong", "smoothed", {"smoothing": 0.6}),
    ):
        options = tmp_path / "options.yaml"
        values = small_values(shards, tmp_path / name, recipe, num_steps=4, validate_every=2) | {
            "model": model
        }
        options.write_text(yaml.safe_dump(values))
        assert main(["train", "--config", str(options)]) == 0

        evaluations.append(str(tmp_path / name / "evaluation"))
        measured = [
            "--checkpoint",
            f"{tmp_path / name}/best",
            "--shards",
            shards,
            "--out",
            evaluations[-1],
        ]
        assert main(["evaluate", *measured]) == 0

    assert main(["compare", "--runs", *evaluations, "--out", str(tmp_path / "table.json")]) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(table["methods"]) == ["finetune", "smoothed", "smoothed smoothing=0.6"]
    lines = [
        json.loads(line) for line in (tmp_path / "mild" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]

    assert (
        main(["train", "--config", str(options), "--resume", "--set", "model.smoothing=0.1"]) == 2
    )
    assert "smoothing" in capsys.readouterr().err


@pytest.mark.usefixtures("toy_family")
def test_a_new_family_is_explained_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Help and --print-config show the family, and it refuses a run that it does not fit."""
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "smoothed: recognition with smoothed targets" in " ".join(
        capsys.readouterr().out.split()
    )

    command = ["train", "smoothed", "--shards", "s", "--out", str(tmp_path / "run")]
    assert main([*command, "--print-config"]) == 0
    assert "smoothing: 0.1  # Share of every target" in capsys.readouterr().out
    assert (
        main([*command, "--set", "data.target.kind=values", "--set", "data.target.values=arousal"])
        == 2
    )
    assert "expected classes" in capsys.readouterr().err
    assert main([*command, "--set", "model.smoothing=1.5"]) == 2
    assert "model.smoothing: got 1.5, expected a share below 1" in capsys.readouterr().err


def test_an_unknown_recipe_is_refused_by_name() -> None:
    """The message lists all recipes; without its line the toy family is not among them."""
    with pytest.raises(ConfigError, match=f"expected one of {', '.join(recipes())}$"):
        recipe_called("smoothed")
