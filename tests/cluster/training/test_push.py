"""`emostream push` uploads the export, all of it and nothing else, or says why not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.cli import main
from cluster.exit_status import ExitStatus
from tests import ROOT
from tests.actors.predicting.test_predicting import write_embeddings_checkpoint
from tests.cluster.training.stand_in_hub import TOKEN, StandInHub, running_hub
from tests.trainers.recipes.recognition.test_export import FACTS
from trainers.models.recognizer_config import RecognizerConfig
from trainers.recipes.recognition.model_card import write_card

REPO = "lab/emotions"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A stand-in that this process takes for the Hub."""
    with running_hub() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield running


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with an export that has an encoder of its own beside it, and training state."""
    best = tmp_path / "run" / "best"
    write_embeddings_checkpoint(best)
    write_card(best, RecognizerConfig.from_pretrained(best), FACTS)
    card = (best / "README.md").read_text(encoding="utf-8")
    card = card.replace("---\nlibrary_name", "---\nlicense: cc-by-4.0\nlibrary_name", 1)
    (best / "README.md").write_text(card.partition("## License")[0], encoding="utf-8")

    for state in ("checkpoints/step-8/optimizer.pt", "best/optimizer.pt", "best/.notes"):
        path = tmp_path / "run" / state
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"state of the training")
    return tmp_path / "run"


def exported(run: Path) -> dict[str, bytes]:
    names = ["README.md", "config.json", "model.safetensors"]
    names += ["original/config.json", "original/model.safetensors"]
    return {name: (run / "best" / name).read_bytes() for name in names}


def test_the_command_uploads_the_export_and_nothing_else(run: Path) -> None:
    """The Hub gets the files of best/ to the byte, and no state of the training."""
    with running_hub() as hub:
        answer = subprocess.run(
            [sys.executable, "-m", "cluster", "push", str(run), REPO, "--private"],
            cwd=ROOT,
            env=os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    assert answer.returncode == ExitStatus.DONE, answer.stderr
    assert hub.files == {(REPO, "main"): exported(run)}
    assert hub.private == {REPO: True}
    assert "model.safetensors  0." in answer.stdout
    assert "stays here: .notes, optimizer.pt" in answer.stdout
    assert f"5 files, {sum(map(len, exported(run).values())) / 2**20:.2f} MiB" in answer.stdout
    assert TOKEN not in answer.stdout + answer.stderr


def test_a_branch_and_a_repository_that_exists(hub: StandInHub, run: Path) -> None:
    """A branch gets the files, and a second push to a repository that is there succeeds."""
    assert main(["push", str(run / "best"), REPO]) == ExitStatus.DONE
    assert main(["push", str(run), REPO, "--revision", "trial"]) == ExitStatus.DONE
    assert hub.files == {(REPO, "main"): exported(run), (REPO, "trial"): exported(run)}
    assert hub.private == {REPO: False}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda best: (best / "model.safetensors").unlink(), "holds no exported recognizer"),
        (lambda best: (best / "config.json").write_text("{}"), "holds no exported recognizer"),
        (lambda best: (best / "README.md").unlink(), "has no model card"),
        (lambda best: (best / "README.md").write_text("# Emotion"), "states no license"),
        (
            lambda best: (best / "README.md").write_text("---\na: [\n---\n"),
            "is no YAML",
        ),
        (
            lambda best: (best / "README.md").write_text(
                "---\nlicense: mit\n---\n## License\n\nNot stated. The weights"
            ),
            "still says under `License` that none is stated",
        ),
    ],
)
def test_what_is_not_fit_to_publish_is_refused(
    damage: object,
    message: str,
    hub: StandInHub,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is sent; the error says what is missing."""
    assert callable(damage)
    damage(run / "best")
    assert main(["push", str(run), REPO]) == ExitStatus.USAGE
    assert message in capsys.readouterr().err
    assert not hub.requests


def test_the_card_of_a_run_asks_for_a_license(
    hub: StandInHub, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card as `train` writes it is not published before somebody has stated the license."""
    write_card(run / "best", RecognizerConfig.from_pretrained(run / "best"), FACTS)
    assert main(["push", str(run), REPO]) == ExitStatus.USAGE
    assert "states no license; find out" in capsys.readouterr().err
    assert not hub.requests


def test_what_the_hub_says_becomes_advice(
    hub: StandInHub,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A wrong token, a name that is taken, a refused upload and a wrong name have clear errors."""
    with monkeypatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_wrong")
        assert main(["push", str(run), REPO]) == ExitStatus.UNFINISHED
        assert "knows no such token (401); log in" in capsys.readouterr().err

    hub.data_sets.add("lab/taken")
    assert main(["push", str(run), "lab/taken"]) == ExitStatus.UNFINISHED
    assert "not found as a repository of models" in capsys.readouterr().err

    hub.refuses_blobs = True
    assert main(["push", str(run), REPO]) == ExitStatus.UNFINISHED
    assert "(403): " in capsys.readouterr().err
    assert hub.files[REPO, "main"] == {}

    assert main(["push", str(run), "lab/a name"]) == ExitStatus.USAGE
    assert "expected OWNER/NAME" in capsys.readouterr().err


def test_a_network_that_is_gone(
    hub: StandInHub,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An address where nobody listens is named, with what to do."""
    with running_hub() as other:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", other.url)
    assert main(["push", str(run), REPO]) == ExitStatus.UNFINISHED
    assert f"{other.url} did not answer" in capsys.readouterr().err
