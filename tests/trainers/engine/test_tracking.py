"""A resumed run is one curve, in the files and in stand-ins of the tracking services."""

import importlib.machinery
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from shards.config import ConfigError
from trainers.engine.tracking import METRICS_NAME, MetricsFile, open_trackers, require_trackers


class Service:
    """What MLflow and W&B keep of runs, by identifier: parameters and (step, numbers).

    `open` is the present run.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.open: str | None = None

    def begin(self, run_id: str | None, name: str | None) -> str:
        assert self.open is None
        self.open = run_id or f"run-{len(self.runs)}"
        self.runs.setdefault(self.open, {"name": name, "parameters": {}, "steps": []})
        return self.open

    def log(self, numbers: dict[str, float], step: int) -> None:
        assert self.open is not None
        self.runs[self.open]["steps"].append((step, numbers))

    def end(self) -> None:
        self.open = None


def mlflow_of(service: Service) -> dict[str, Any]:
    """Return MLflow's functions.

    As in MLflow, a parameter that is logged again with another value is refused.
    """

    def start_run(run_id: str | None = None, run_name: str | None = None) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id=service.begin(run_id, run_name)))

    def get_run(run_id: str) -> Any:
        steps = service.runs[run_id]["steps"]
        return SimpleNamespace(
            data=SimpleNamespace(metrics={name: 0.0 for _, numbers in steps for name in numbers})
        )

    def history(run_id: str, name: str) -> list[Any]:
        steps = service.runs[run_id]["steps"]
        return [SimpleNamespace(step=step) for step, numbers in steps if name in numbers]

    def log_params(values: dict[str, str]) -> None:
        assert service.open is not None
        known = service.runs[service.open]["parameters"]
        if any(known.get(name, value) != value for name, value in values.items()):
            raise ValueError("changing param values is not allowed")
        known.update(values)

    return {
        "start_run": start_run,
        "log_params": log_params,
        "log_metrics": service.log,
        "end_run": service.end,
        "MlflowClient": lambda: SimpleNamespace(get_run=get_run, get_metric_history=history),
    }


def wandb_of(service: Service) -> dict[str, Any]:
    """Return `wandb.init`.

    As in W&B, an identifier without `resume` starts the run anew, and a changed value must be
    allowed.
    """

    def init(
        name: str,
        id: str | None,
        resume: str | None,
        config: dict[str, Any],
        allow_val_change: bool,
    ) -> Any:
        if id is not None and resume != "allow":
            service.runs.pop(id, None)

        run_id = service.begin(id, name)
        known = service.runs[run_id]["parameters"]

        if not allow_val_change and any(
            known.get(key, value) != value for key, value in config.items()
        ):
            raise ValueError("attempted to change value of key")

        known.update(config)
        return SimpleNamespace(id=run_id, log=service.log, finish=service.end)

    return {"init": init}


@pytest.fixture(params=["mlflow", "wandb"])
def service(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Service]:
    name, kept = request.param, Service()
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update((mlflow_of if name == "mlflow" else wandb_of)(kept))
    monkeypatch.setitem(sys.modules, name, module)
    return name, kept


def attempt(out: Path, name: str, first_step: int, last_step: int, **parameters: Any) -> None:
    trackers = open_trackers(out, [name], parameters, first_step=first_step)
    for step in range(first_step + 1, last_step + 1):
        for tracker in trackers:
            tracker.log(step, {"loss": 1 / step})
    for tracker in trackers:
        tracker.close()


def test_a_resumed_run_is_the_same_run_of_the_service(
    service: tuple[str, Service], tmp_path: Path
) -> None:
    """A resumed run keeps its identifier, also with more steps; another folder is another run."""
    name, kept = service
    require_trackers([name])
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()

    attempt(tmp_path / "one", name, 0, 3, num_steps=3)
    attempt(tmp_path / "one", name, 2, 5, num_steps=5)
    attempt(tmp_path / "two", name, 0, 1, num_steps=3)

    assert [run["name"] for run in kept.runs.values()] == ["one", "two"]
    assert [step for step, _ in kept.runs["run-0"]["steps"]] == [1, 2, 3, 4, 5]
    assert kept.runs["run-0"]["steps"][0][1] == {"loss": 1.0}
    assert int(kept.runs["run-1"]["parameters"]["num_steps"]) == 3
    assert kept.open is None


def test_no_figure_is_recorded_twice(service: tuple[str, Service], tmp_path: Path) -> None:
    """Not after several kills, of which one came between the loss of a step and its validation."""
    name, kept = service
    attempt(tmp_path, name, 0, 24)
    attempt(tmp_path, name, 20, 22)
    attempt(tmp_path, name, 20, 23)

    # A validation of step 24 that the killed run did not reach is still recorded.
    trackers = open_trackers(tmp_path, [name], {}, first_step=20)
    for tracker in trackers:
        tracker.log(24, {"loss": 1 / 24})
        tracker.log(24, {"validation_macro_f1": 0.5})
        tracker.log(25, {"loss": 1 / 25})
        tracker.close()

    [run] = kept.runs.values()
    assert [step for step, numbers in run["steps"] if "loss" in numbers] == list(range(1, 26))
    assert [step for step, numbers in run["steps"] if "validation_macro_f1" in numbers] == [24]


def test_a_run_that_begins_anew_is_another_run(
    service: tuple[str, Service], tmp_path: Path
) -> None:
    """What an attempt recorded before its first checkpoint is not continued: options may differ."""
    name, kept = service
    attempt(tmp_path, name, 0, 3, learning_rate=1)
    attempt(tmp_path, name, 0, 4, learning_rate=2)
    assert [len(run["steps"]) for run in kept.runs.values()] == [3, 4]


def test_the_real_mlflow_keeps_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a store of files, each step of a killed and resumed run is there once."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (tmp_path / "run").mkdir()

    attempt(tmp_path / "run", "mlflow", 0, 4)
    attempt(tmp_path / "run", "mlflow", 2, 6)

    run_id = json.loads((tmp_path / "run" / "trackers.json").read_text())["mlflow"]
    points = mlflow.MlflowClient().get_metric_history(run_id, "loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]


def test_a_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install the library."""
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(
        ConfigError, match="mlflow is not installed; `pip install mlflow`, or leave it out"
    ):
        require_trackers(["mlflow"])


def test_the_files_hold_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and TensorBoard points after the checkpoint are removed, even a half-written line."""
    # TensorBoard reads the files of one second in the order of their names, which end in a count of
    # this process: file 10 would come before file 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(100))

    for first_step, last_step in ((0, 4), (2, 5)):
        trackers = open_trackers(tmp_path, [], {}, first_step=first_step)
        for step in range(first_step + 1, last_step + 1):
            for tracker in trackers:
                tracker.log(step, {"loss": step + first_step / 10})
        for tracker in trackers:
            tracker.close()
        with (tmp_path / METRICS_NAME).open("a") as stream:
            stream.write('{"step": 2, "lo')

    MetricsFile(tmp_path / METRICS_NAME, first_step=5).close()
    expected = [(1, 1.0), (2, 2.0), (3, 3.2), (4, 4.2), (5, 5.2)]

    lines = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == expected

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [event.step for event in events] == [1, 2, 3, 4, 5]
    assert [event.value for event in events] == pytest.approx([loss for _, loss in expected])
