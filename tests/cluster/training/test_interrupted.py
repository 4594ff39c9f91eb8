"""What Ctrl-C advises is a command that works."""

from pathlib import Path

import pytest

import cluster.training.train as train_module
from cluster.exit_status import ExitStatus
from tests.worlds.training import small_config


def test_an_interrupted_run_is_continued_by_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A used folder is refused without --resume, so the advice names it."""

    def interrupted(config: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train_module, "train_here", interrupted)
    status = train_module.run_train(small_config("none/*.tar", tmp_path / "run"))

    assert status == ExitStatus.INTERRUPTED
    assert "the same command with --resume" in capsys.readouterr().err
