"""Compares the whole Ray job with the same panel in a plain loop in one process.

Both read the same shards, label with the same panel and write the same tables; the loop reads,
labels and writes one shard after another with torch on all cores. The job pays for Ray's start, for
a second copy of every import, and for moving chunks between processes. It gains by reading ahead
and by one labeler a core. It is therefore compared with the loop's own time: overhead = job / loop
- 1. Target: at most +15 % with a labeler a core.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from transformers.utils import logging as transformers_logging

from actors.labeling.config import PanelConfig
from actors.labeling.identity import panel_identity
from actors.labeling.panel import Panel
from actors.labeling.shard import label_shard
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.work.task import ShardProgress
from cluster.jobs.plan import make_plan
from shards.storage.files import list_files
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from shards.synthetic.face import NUM_FACE_CUES
from shards.tables.predictions import FORMAT_VERSION
from tests import ROOT
from tests.benchmarks.measuring import machine, print_result, run_command
from tests.benchmarks.training.checkpoints import write_hubert
from tests.worlds.small import write_checkpoints

TARGET_OVERHEAD = 0.15
TARGET_JOB = "job, 2 labelers"


def plain_loop(shards: str, out: str, panel_file: str) -> None:
    """Do the job without Ray: one process, one shard at a time."""
    config = PanelConfig.load(panel_file)
    identity = panel_identity(config)
    panel = Panel(config, identity)
    panel.setup(num_threads=os.cpu_count() or 1)

    reader = ShardReader(config.media, Needs(audio=True, vision=True))
    reader.setup()
    Path(out).mkdir(parents=True, exist_ok=True)

    for task in make_plan(shards, list_files(shards), out, identity.digest, FORMAT_VERSION).todo:
        stream = reader.read(task.url)
        opened = next(stream)
        assert isinstance(opened, ShardOpened)

        utterances = (
            utterance for chunk in stream if isinstance(chunk, list) for utterance in chunk
        )
        label_shard(task, panel, utterances, shard_error=opened.error, progress=ShardProgress())


def prepare(folder: Path, num_speakers: int) -> tuple[str, str]:
    """Make a synthetic corpus and a panel whose audio labeler is a four-layer HuBERT.

    Returns shards and panel file.
    """
    write_corpus(
        WorldConfig(seed=1),
        str(folder / "shards"),
        speakers=range(num_speakers),
        speakers_per_shard=5,
        num_workers=2,
    )

    panel = write_checkpoints(folder / "checkpoints", num_face_values=NUM_FACE_CUES)
    panel["audio"] = {"checkpoint": str(write_hubert(folder / "hubert", num_layers=4))}
    (folder / "panel.yaml").write_text(yaml.safe_dump(panel))

    return f"{folder}/shards/*.tar", str(folder / "panel.yaml")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--speakers", type=int, default=24)
    options = parser.parse_args()

    transformers_logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards, panel = prepare(folder, options.speakers)
        seconds: dict[str, list[float]] = {"loop": [], "job, 2 labelers": [], "job, 1 labeler": []}

        for repeat in range(options.repeats):
            seconds["loop"].append(_time_loop(shards, folder / f"loop-{repeat}", panel))
            for labelers in (2, 1):
                out = folder / f"job-{labelers}-{repeat}"
                command = ["label", "--shards", shards, "--out", str(out), "--panel", panel]
                run = run_command([*command, "--num-labelers", str(labelers)], log=folder / "log")
                seconds[f"job, {labelers} labeler{'s' if labelers > 1 else ''}"].append(run.seconds)

    medians = {what: statistics.median(times) for what, times in seconds.items()}

    sys.stdout.write(f"{machine()}\n")
    for what, median in medians.items():
        target = f" (target: at most {TARGET_OVERHEAD:+.0%})" if what == TARGET_JOB else ""
        sys.stdout.write(
            f"{what:16s} {median:7.1f} s  overhead {median / medians['loop'] - 1:+.1%}{target}\n"
        )

    overhead = {what: round(median / medians["loop"] - 1, 4) for what, median in medians.items()}
    figures = {
        "seconds": medians,
        "overhead": overhead,
        "target": TARGET_OVERHEAD,
        "repeats": options.repeats,
    }
    print_result("ray_overhead", figures)


def _time_loop(shards: str, out: Path, panel: str) -> float:
    started = time.perf_counter()
    call = f"plain_loop({shards!r}, {str(out)!r}, {panel!r})"
    code = f"from tests.benchmarks.labeling.ray_overhead import plain_loop; {call}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
