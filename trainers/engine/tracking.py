"""Records the numbers of a run in `metrics.jsonl`, in TensorBoard and, on request, elsewhere.

A run that was interrupted and resumed leaves one curve. It resumes from a checkpoint, so whatever
was recorded after the step of that checkpoint is removed from `metrics.jsonl` and TensorBoard: the
resumed run records these steps again. MLflow and W&B, which `engine.trackers` names, see the
resumed run as the same run, because `trackers.json` keeps the identifier that each service gave it.
They cannot remove what they have, so a figure that they have of a step is not recorded again. The
resumed run computes the same figures, unless `engine.extend` gives it another learning rate.

Sending figures only after the checkpoint that makes them final was rejected: people watch a run
while it lasts.
"""

import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from shards.config import ConfigError
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write

MLFLOW_PARAMETERS = 100  # how many a server takes at once
METRICS_NAME, RUN_IDS_NAME = "metrics.jsonl", "trackers.json"
# In `trackers.json`, beside the identifiers: see `Recorded`.
RECORDED_NAME = "recorded"

# The last step of which each figure is recorded.
Recorded = Mapping[str, int]


class Tracker(Protocol):
    """Records the numbers of each logged step."""

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record `numbers` of `step`."""

    def close(self) -> None:
        """Write what is buffered."""


class MetricsFile:
    """The file `metrics.jsonl`, with one line such as {"step": 10, "loss": 1.5} per logged step.

    Lines of steps after `first_step`, which an earlier attempt wrote, are removed.
    """

    def __init__(self, path: Path, *, first_step: int) -> None:
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= first_step]
        # The lines to keep go into a new file that replaces the old one in one step. Writing into
        # the old file could lose the curve so far when the disk is full.
        with atomic_write(str(path)) as stream:
            stream.write("".join(kept).encode())

        self._stream = path.open("a", encoding="utf-8")

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Append the line of `step`, so that readers of the file see it at once."""
        self._stream.write(json.dumps({"step": step, **numbers}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class TensorBoard:
    """TensorBoard's event files in `folder`.

    TensorBoard hides the steps after `first_step` that an earlier attempt wrote.
    """

    def __init__(self, folder: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step + 1)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record one scalar for each of the `numbers` of `step`."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is buffered."""
        self._writer.close()


class ServiceTracker(Tracker, Protocol):
    """A tracker whose service knows the run by an identifier."""

    @property
    def run_id(self) -> str:
        """The identifier of the run, under which a resumed run continues."""

    def recorded(self, sent: Recorded) -> Recorded:
        """What the service has of the run; earlier attempts have `sent` this or a little more."""


class Unrepeated:
    """Records in `service` what is not yet `recorded` there."""

    def __init__(self, service: ServiceTracker, recorded: Recorded) -> None:
        self._service, self._recorded = service, recorded

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record those of the `numbers` that the service does not have of `step`."""
        new = {name: value for name, value in numbers.items() if step > self._last(name)}
        if new:
            self._service.log(step, new)

    def close(self) -> None:
        """Write what is buffered."""
        self._service.close()

    def _last(self, name: str) -> int:
        return self._recorded.get(name, 0)


class MlflowRun:
    """A run on the MLflow server that the environment variables name."""

    def __init__(self, name: str, parameters: Mapping[str, Any], run_id: str | None) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if run_id is not None:
            run = mlflow.start_run(run_id=run_id)
        else:
            run = mlflow.start_run(run_name=name)
            # A resumed run does not log its parameters again: MLflow refuses a parameter whose
            # value has changed, and a resumed run may have another number of steps.
            texts = [(key, str(value)[:500]) for key, value in parameters.items()]
            for start in range(0, len(texts), MLFLOW_PARAMETERS):
                mlflow.log_params(dict(texts[start : start + MLFLOW_PARAMETERS]))
        self.run_id: str = run.info.run_id

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record `numbers` as metrics of `step`."""
        self._mlflow.log_metrics(dict(numbers), step=step)

    def recorded(self, sent: Recorded) -> Recorded:
        """What the server answers: a killed run may have written a line that was never sent."""
        client = self._mlflow.MlflowClient()
        names = client.get_run(self.run_id).data.metrics

        return {
            name: max(point.step for point in client.get_metric_history(self.run_id, name))
            for name in names
        }

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


class WandbRun:
    """A run on Weights & Biases."""

    def __init__(self, name: str, parameters: Mapping[str, Any], run_id: str | None) -> None:
        import wandb

        # Without `resume`, W&B begins a run with a known identifier anew. Some parameters of a
        # resumed run may have changed, for example the number of steps.
        self._run: Any = wandb.init(
            name=name,
            id=run_id,
            resume=None if run_id is None else "allow",
            config=dict(parameters),
            allow_val_change=run_id is not None,
        )
        self.run_id: str = self._run.id

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record `numbers` of `step`."""
        self._run.log(dict(numbers), step=step)

    def recorded(self, sent: Recorded) -> Recorded:
        """What was sent: W&B refuses steps that it has, but an offline run does not know them."""
        return sent

    def close(self) -> None:
        """End the run."""
        self._run.finish()


_SERVICES: Mapping[str, Callable[[str, Mapping[str, Any], str | None], ServiceTracker]] = {
    "mlflow": MlflowRun,
    "wandb": WandbRun,
}


def require_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError when the library of one of the services `names` is not installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"engine.trackers: {name} is not installed; `pip install {name}`, or leave it out"
            )


def open_trackers(
    out: Path, names: Sequence[str], parameters: Mapping[str, Any], *, first_step: int
) -> list[Tracker]:
    """Open `metrics.jsonl`, TensorBoard and the services `names`.

    The libraries of the services must be installed. `first_step` is the step that the run resumes
    from. With 0 the run begins, and is a new run for the services too: what an attempt without a
    checkpoint has left there may have had other options.
    """
    path = out / RUN_IDS_NAME
    kept: dict[str, Any] = read_json(path) if first_step and path.exists() else {}
    sent = _sent(out, kept.pop(RECORDED_NAME, {})) if first_step else {}

    # Before lines are removed from `metrics.jsonl`, because they tell what was sent.
    if kept:
        write_json(path, {**kept, RECORDED_NAME: sent})
    trackers: list[Tracker] = [
        MetricsFile(out / METRICS_NAME, first_step=first_step),
        TensorBoard(out / "tensorboard", first_step=first_step),
    ]

    # Identifiers of services that are not in `names` this time are kept: a later attempt may use
    # these services again.
    for name in names:
        service = _SERVICES[name](out.name, parameters, kept.get(name))
        trackers.append(Unrepeated(service, service.recorded(sent) if name in kept else {}))
        kept[name] = service.run_id

    if kept:
        write_json(path, {**kept, RECORDED_NAME: sent})
    return trackers


def _sent(out: Path, before: Recorded) -> dict[str, int]:
    """What all attempts have sent to the services: `before` the last one, and by its lines."""
    sent = dict(before)
    for line in map(json.loads, _lines(out / METRICS_NAME)):
        for name in line.keys() - {"step"}:
            sent[name] = max(sent.get(name, 0), int(line["step"]))

    return sent


def last_step(out: Path) -> int:
    """The last step that the run in `out` has logged; 0 when it has not logged a step yet."""
    lines = _lines(out / METRICS_NAME)
    return int(json.loads(lines[-1])["step"]) if lines else 0


def _lines(path: Path) -> list[str]:
    """The whole lines of a file; a line that a killed run left half written is dropped."""
    if not path.exists():
        return []

    return [
        line
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
        if line.endswith("\n")
    ]
