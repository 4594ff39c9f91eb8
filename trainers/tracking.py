"""Where a run's numbers go: one JSON line a logged step, TensorBoard, and MLflow or W&B when asked for.

A resumed run takes back the lines after its checkpoint: the file is the curve of the run, not of its attempts.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shards.config import ConfigError

METRICS_NAME = "metrics.jsonl"


class Tracker(Protocol):
    """Takes numbers by step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record `numbers` of `step`."""

    def close(self) -> None:
        """Write what is buffered."""


class MetricsFile:
    """`metrics.jsonl`: {"step": 10, "loss": ...} lines."""

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= first_step]
        path.write_text("".join(kept), encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append a line and flush it."""
        self._stream.write(json.dumps({"step": step, **numbers}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class TensorBoard:
    """Event files below `folder`; steps after `first_step` of an earlier attempt are purged."""

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step + 1)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """One scalar a number."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class MlflowRun:
    """A run of the MLflow server the environment names."""

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        mlflow.start_run(run_name=name)
        mlflow.log_params({key: str(value)[:500] for key, value in parameters.items()})

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Metrics of a step."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandbRun:
    """A run of Weights & Biases."""

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(name=name, config=dict(parameters))

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


def open_trackers(out: Path, names: Sequence[str], parameters: Mapping[str, Any], *, first_step: int) -> list[Tracker]:
    """The metrics file, TensorBoard, and the named services. Raises ConfigError when one is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"engine.trackers: {name} is not installed; `pip install {name}`, or leave it out")
    trackers: list[Tracker] = [
        MetricsFile(out / METRICS_NAME, first_step=first_step),
        TensorBoard(out / "tensorboard", first_step=first_step),
    ]
    services: dict[str, Callable[[str, Mapping[str, Any]], Tracker]] = {"mlflow": MlflowRun, "wandb": WandbRun}
    return trackers + [services[name](out.name, parameters) for name in names]


def _lines(path: Path) -> list[str]:
    """Whole lines of the file; a line a killed run left half written is dropped."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
