"""Where a run's numbers go: one JSON line a logged step, TensorBoard, and MLflow or W&B when asked
for.

A resumed run takes back the lines after its checkpoint: the file is the curve of the run, not of
its attempts. For the services it is the same run again: `trackers.json` keeps the identifier that
each of them gave it.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shards.config import ConfigError
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write

METRICS_NAME, RUN_IDS_NAME = "metrics.jsonl", "trackers.json"


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
        with atomic_write(
            str(path)
        ) as stream:  # cut short by a full disk, it would lose the curve so far
            stream.write("".join(kept).encode())
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


class ServiceTracker(Tracker, Protocol):
    """A tracker whose service knows the run by an identifier."""

    @property
    def run_id(self) -> str:
        """The identifier, under which a resumed run goes on."""


class MlflowRun:
    """A run of the MLflow server the environment names."""

    def __init__(self, name: str, parameters: Mapping[str, Any], run_id: str | None) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if run_id is not None:
            run = mlflow.start_run(run_id=run_id)
        else:
            run = mlflow.start_run(run_name=name)
            mlflow.log_params(
                {key: str(value)[:500] for key, value in parameters.items()}
            )  # once: they cannot change
        self.run_id: str = run.info.run_id

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Metrics of a step."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandbRun:
    """A run of Weights & Biases."""

    def __init__(self, name: str, parameters: Mapping[str, Any], run_id: str | None) -> None:
        import wandb

        self._run: Any = wandb.init(
            name=name,
            id=run_id,
            resume=None if run_id is None else "allow",
            config=dict(parameters),
            allow_val_change=run_id is not None,
        )
        self.run_id: str = self._run.id

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of a step."""
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        """End the run."""
        self._run.finish()


_SERVICES: Mapping[str, Callable[[str, Mapping[str, Any], str | None], ServiceTracker]] = {
    "mlflow": MlflowRun,
    "wandb": WandbRun,
}


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError when the library of a named service is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"engine.trackers: {name} is not installed; `pip install {name}`, or leave it out"
            )


def open_trackers(
    out: Path, names: Sequence[str], parameters: Mapping[str, Any], *, first_step: int
) -> list[Tracker]:
    """The metrics file, TensorBoard, and the named services, whose libraries must be there."""
    trackers: list[Tracker] = [
        MetricsFile(out / METRICS_NAME, first_step=first_step),
        TensorBoard(out / "tensorboard", first_step=first_step),
    ]
    path = out / RUN_IDS_NAME
    run_ids: dict[str, str] = read_json(path) if path.exists() else {}
    for name in names:
        service = _SERVICES[name](out.name, parameters, run_ids.get(name))
        run_ids[name] = service.run_id
        trackers.append(service)
    if run_ids:
        write_json(path, run_ids)
    return trackers


def last_step(out: Path) -> int:
    """The last step that the run in `out` has logged; 0 before it has logged any."""
    lines = _lines(out / METRICS_NAME)
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _lines(path: Path) -> list[str]:
    """Whole lines of the file; a line a killed run left half written is dropped."""
    if not path.exists():
        return []
    return [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
