"""Compares training on a CPU with a plain PyTorch loop whose batches lie in memory.

`python -m tests.benchmarks.training.against_plain_loop [--repeats 5]`; it starts itself with
`--worker FILE` for each side.

Both sides build the same model from the same configuration, take the very same batches in the same
order, clip, and step AdamW and its schedule. The loop has no DeepSpeed, no checkpoint, no log and
no reading. Steps are timed when the engine has decoded the corpus: after an epoch of utterances, or
after twenty of sets, each of which takes K utterances of a speaker. Rounds alternate, each in a
process of its own. The padding that a view cannot avoid is that of each set by itself, because the
K random utterances of one speaker belong together.

The limit is the loop's own rate, because DeepSpeed's bookkeeping and the logs cannot be free.
Beside it are shown the share of time in which the engine waited for data, the padding, ZeRO 0 to 2
with one worker and with two (a core each), and the time from starting a process to its first new
step, fresh and resumed.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from shards.config_values import from_mapping
from shards.loading.index import read_index
from shards.loading.loader import Batch
from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.benchmarks.training.personalization_corpora import write_corpora
from tests.benchmarks.training.personalization_runs import UTTERANCES
from trainers.config import TrainConfig
from trainers.engine.schedules import batch_seed, rate_at
from trainers.task import FittedTask
from trainers.training import make_task, run_training

WORLD = "world-0"
# Steps of a run; they are enough to decode the corpus before the timed ones.
STEPS = {"finetune": 140, "setpeer": 360}
TIMED_STEPS = 60  # the last ones of a run
RESUMED_STEPS = 50  # of a run before it is resumed, and again after
WARM_UP_STEPS = 10  # of the plain loop, which has nothing to decode
STARTED = "EMOSTREAM_BENCHMARK_STARTED"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--worker", type=Path, default=None, help="options of one side, as YAML")
    options = parser.parse_args()

    if options.worker is not None:
        _work(options.worker)
        return

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpora(folder, [WORLD], folder)
        figures = {recipe: _against_loop(folder, recipe, options.repeats) for recipe in STEPS}
        stages = _stages(folder)
        resume = _resume(folder, options.repeats)

    print_result(
        "training",
        {**figures, "zero": stages, "seconds_to_first_step": resume, "repeats": options.repeats},
    )


def _against_loop(folder: Path, recipe: str, repeats: int) -> dict[str, float]:
    """Measure steps a second of both sides, and the engine's own figures."""
    rates: dict[str, list[float]] = {"engine": [], "loop": []}
    ratios, last = [], dict[str, dict[str, float]]()

    for repeat in range(repeats):
        found: dict[str, dict[str, float]] = {}
        for side in rates:
            values = _values(folder, recipe, STEPS[recipe], out=f"{recipe}-{side}-{repeat}")
            found[side] = _run(folder, values | {"side": side})
            rates[side].append(found[side]["steps_per_second"])
        ratios.append(found["engine"]["steps_per_second"] / found["loop"]["steps_per_second"])
        last = found

    figures = {
        f"{side}_steps_per_second": statistics.median(values) for side, values in rates.items()
    }
    figures |= {"ratio": statistics.median(ratios), "lowest_ratio": min(ratios)}
    figures |= {
        "data_wait_share": last["engine"]["data_wait_share"],
        "padding_share": last["engine"]["padding_share"],
    }
    figures["least_padding_share"] = last["loop"]["least_padding_share"]

    sys.stdout.write(
        f"{machine()}\n{recipe}: engine {figures['engine_steps_per_second']:.2f} steps a second, "
        f"plain loop {figures['loop_steps_per_second']:.2f}: {figures['ratio']:.2f} times (lowest "
        f"{figures['lowest_ratio']:.2f}); waiting for data {figures['data_wait_share']:.1%}; "
        f"padding {figures['padding_share']:.1%}, at least {figures['least_padding_share']:.1%} "
        "with these sets\n"
    )
    sys.stdout.flush()
    return figures


def _stages(folder: Path) -> dict[str, dict[str, float]]:
    """Measure steps a second of ZeRO 0, 1 and 2, with two batches a step.

    One worker and two workers of one core each are measured.
    """
    found: dict[str, dict[str, float]] = {}

    for stage in (0, 1, 2):
        found[str(stage)] = {}

        for workers in (1, 2):
            engine = {"batches_per_step": 2, "zero_stage": stage}
            values = _values(
                folder, "finetune", STEPS["finetune"], out=f"zero-{stage}-{workers}", **engine
            )
            line = _run(folder, values | {"side": "engine"}, workers=workers)
            found[str(stage)][str(workers)] = line["steps_per_second"]

        one, two = found[str(stage)].values()
        sys.stdout.write(
            f"ZeRO {stage}, two batches a step: {one:.2f} steps a second by one worker on one "
            f"core, {two:.2f} by two on two: {two / one:.2f} times\n"
        )
        sys.stdout.flush()

    return found


def _resume(folder: Path, repeats: int) -> dict[str, float]:
    """Measure the seconds from the start of a process to its first step.

    Runs are fresh, and resumed by one and by two workers.
    """
    seconds: dict[str, list[float]] = {"fresh": [], "resumed": [], "resumed by two, ZeRO 1": []}

    for repeat in range(repeats):
        out = f"resume-{repeat}"
        engine = {"checkpoint_every": RESUMED_STEPS, "batches_per_step": 2, "zero_stage": 1}
        values = _values(folder, "setpeer", RESUMED_STEPS, out=out, **engine) | {"side": "engine"}
        seconds["fresh"].append(_run(folder, values)["seconds_to_first_step"])

        for more, name, workers in ((2, "resumed", 1), (3, "resumed by two, ZeRO 1", 2)):
            again = _values(folder, "setpeer", more * RESUMED_STEPS, out=out, **engine) | {
                "side": "engine",
                "resume": True,
            }
            seconds[name].append(_run(folder, again, workers=workers)["seconds_to_first_step"])

    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        sys.stdout.write(f"first step {value:5.1f} s after the start, {name}\n")
    return medians


def _values(folder: Path, recipe: str, steps: int, *, out: str, **engine: Any) -> dict[str, Any]:
    """Options of a run with 64 utterances a batch, as in the other benchmarks."""
    no_pause = {"validate_every": steps, "checkpoint_every": steps}
    return {
        "recipe": recipe,
        "shards": f"{folder}/{WORLD}/*.tar",
        "out": str(folder / out),
        "data": {"utterances": UTTERANCES},
        "engine": {"num_steps": steps, **no_pause, **engine},
    }


def _run(folder: Path, values: dict[str, Any], *, workers: int = 1) -> dict[str, float]:
    """Run one side in a process, and return its measurements."""
    options = folder / "worker.yaml"
    options.write_text(yaml.safe_dump(values))

    one_core = values["engine"].get("batches_per_step", 1) > 1
    environment = (
        os.environ | {STARTED: str(time.time())} | ({"OMP_NUM_THREADS": "1"} if one_core else {})
    )
    launcher = (
        ["-m", "torch.distributed.run", "--nproc-per-node", str(workers)] if workers > 1 else []
    )

    command = [
        sys.executable,
        *launcher,
        "-m",
        "tests.benchmarks.training.against_plain_loop",
        "--worker",
        str(options),
    ]

    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} exited with {done.returncode}: {done.stderr[-3000:]}"
        )

    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _work(file: Path) -> None:
    """Run one side in a process of its own, whose last line holds the measurements."""
    values = yaml.safe_load(file.read_text())
    side = values.pop("side")
    config = from_mapping(TrainConfig, values)
    with redirect_stdout(sys.stderr):
        found = _engine(config) if side == "engine" else _plain_loop(config)
    if os.environ.get("RANK", "0") == "0":
        sys.stdout.write(json.dumps(found) + "\n")


def _engine(config: TrainConfig) -> dict[str, float]:
    clock = _StepClock()
    result = run_training(config, clock)

    metrics = [
        json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()
    ]
    waits = [line["data_wait_share"] for line in metrics if "data_wait_share" in line]

    return {
        "steps_per_second": clock.rate(),
        "seconds_to_first_step": clock.first - float(os.environ[STARTED]),
        "data_wait_share": statistics.mean(waits[-(TIMED_STEPS // config.engine.log_every) :]),
        "padding_share": asdict(result)["padding_share"],
    }


class _StepClock:
    """Keeps the time at which each logged step was over."""

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        self.first = 0.0

    def __call__(self, done: int, total: int, note: str = "") -> None:
        if note.startswith("loss"):
            self._times[done] = time.perf_counter()
            self.first = self.first or time.time()

    def rate(self) -> float:
        """Steps a second over the last TIMED_STEPS."""
        last = max(self._times)
        first = min(step for step in self._times if step >= last - TIMED_STEPS)
        return (last - first) / (self._times[last] - self._times[first])


def _plain_loop(config: TrainConfig) -> dict[str, float]:
    """Measure steps a second of PyTorch alone, on the batches that the engine would take.

    The least padding of these batches is computed too.
    """
    task, engine = make_task(config, read_index(config.shards)), config.engine
    if isinstance(task, FittedTask):
        raise TypeError(f"{config.recipe} has no training loop to compare with")
    model = task.build_model().train()
    batches = _last_in_memory(task, engine.max_steps)

    optimizer = torch.optim.AdamW(
        model.parameters(), lr=engine.learning_rate, weight_decay=engine.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_at(step, engine.max_steps, engine)
    )

    started = 0.0
    for step, batch in enumerate(batches, start=1):
        if batch.number == engine.max_steps - TIMED_STEPS:
            started = time.perf_counter()
        torch.manual_seed(batch_seed(engine.seed, batch.number))
        loss = model(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), engine.clip_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        model.after_step(step)

    rate = TIMED_STEPS / (time.perf_counter() - started)
    return {"steps_per_second": rate, "least_padding_share": _least_padding(batches)}


def _least_padding(batches: list[Batch]) -> float:
    """The share of padding if every set were padded only to its own longest utterance."""
    samples = capacity = 0
    for batch in batches:
        for number in set(batch.sets.tolist()):
            lengths = batch.inputs["sound"].lengths[batch.sets == number]
            samples += int(lengths.sum())
            capacity += len(lengths) * int(lengths.max())
    return 1 - samples / capacity


def _last_in_memory(task: Any, num_steps: int) -> list[Batch]:
    """Read the timed batches of a run and those before them, which warm up."""
    reader, plan = task.training_reader(), task.plan()
    planned: list[Any] = []
    epoch: Callable[[int], list[Any]] = plan.epoch
    while len(planned) < num_steps:
        planned += epoch(len(planned) // len(epoch(0)))
    numbered = list(enumerate(planned[:num_steps]))[-TIMED_STEPS - WARM_UP_STEPS :]
    return [reader[number, batch] for number, batch in numbered]


if __name__ == "__main__":
    main()
