"""SetPeER against the vanilla baseline on speakers nobody has heard, in worlds whose truth is known.

Each world has 120 training, 20 validation and 40 test speakers and four emotions; labels are the truth, so that what is
measured is the method. Every method sees the same number of utterances a step and of steps; the checkpoint is chosen on
validation speakers. Controls keep it honest: support from another speaker must cost what personalisation gained,
support from other utterances of the same speaker must keep it, and in a null world, where speakers do not differ, no
method may win. All worlds are synthetic.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import yaml
from scipy.stats import ttest_rel

from shards.samples import encode_sample
from shards.storage import atomic_write
from shards.synthetic import World, iterate_samples
from shards.synthetic_config import Spread, WorldConfig, null_world
from shards.tar import TarWriter
from tests.benchmarks.measuring import ROOT, machine, print_result

CLASSES = ("neutral", "anger", "happiness", "surprise")
SPLITS = {"train": range(120), "validation": range(120, 140), "test": range(140, 180)}
PRIOR = (0.25, 0.25, 1e-6, 1e-6, 0.25, 1e-6, 0.25)
BASELINE = Spread(shared=0.7, own=0.7)  # how far speakers' habits lie apart, in units of what an emotion changes
METHODS: dict[str, dict[str, object]] = {
    "vanilla": {},
    "setpeer": {"quantized": True},
    "setpeer, codes in use": {"quantized": True, "normalise_codes": True, "restart_codes": True},
    "setpeer, no codebook": {"quantized": False},
}
CONTROLS = ("disjoint", "wrong")


def world_config(seed: int, *, null: bool) -> WorldConfig:
    """A world of four emotions; speakers who differ, or, in the null world, do not."""
    config = null_world(seed=seed) if null else WorldConfig(seed=seed, voice_baseline=BASELINE)
    return replace(config, emotion_prior=PRIOR)


def write_split(config: WorldConfig, split: str, folder: str) -> None:
    """One shard of a split, labelled with the truth."""
    with atomic_write(f"{folder}/{split}-000000.tar") as stream:
        writer = TarWriter(stream)
        for sample in iterate_samples(World(config), SPLITS[split]):
            emotion = sample.metadata["emotion"]
            if emotion in CLASSES:
                labelled = replace(sample, metadata={**sample.metadata, "label": emotion, "split": split})
                writer.add(sample.key, encode_sample(labelled))
        writer.close()


def write_worlds(folder: Path, worlds: Sequence[str]) -> None:
    """All corpora, in parallel."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        running = []
        for name in worlds:
            (folder / name).mkdir(exist_ok=True)
            config = world_config(int(name.rpartition("-")[2]), null=name.startswith("null"))
            running += [pool.submit(write_split, config, split, str(folder / name)) for split in SPLITS]
        for future in running:
            future.result()


def train_and_evaluate(folder: Path, world: str, method: str, seed: int, steps: int) -> dict[str, float]:
    """One run in processes of one thread; A-ACC on the test speakers, with each kind of support."""
    out = folder / "runs" / f"{world}-{method.replace(', ', '-').replace(' ', '-')}-{seed}"
    out.mkdir(parents=True, exist_ok=True)
    recipe = "finetune" if method == "vanilla" else "setpeer"
    options = {
        "recipe": recipe,
        "shards": f"{folder}/{world}/*.tar",
        "out": str(out / "train"),
        "data": {"utterances": {"batch_seconds": 200.0, "max_utterances": 64}},
        "engine": {"num_steps": steps, "seed": seed, "checkpoint_every": steps},
        "model": METHODS[method],
    }
    if not (out / "train" / "train.json").exists():  # a kept folder goes on where it was stopped
        (out / "options.yaml").write_text(yaml.safe_dump(options | {"resume": (out / "train").exists()}))
        cluster(out, "train", "--config", str(out / "options.yaml"))
    scores = {}
    for support in ("same", *(CONTROLS if recipe == "setpeer" else ())):
        arguments = ["--checkpoint", f"{out}/train/best", "--shards", f"{folder}/{world}/*.tar"]
        if not (out / support / "metrics.json").exists():
            cluster(out, "evaluate", *arguments, "--out", f"{out}/{support}", "--support", support)
        metrics = json.loads((out / support / "metrics.json").read_text())
        scores[support] = metrics["scores"]["speaker_accuracy"]
    return scores


def cluster(out: Path, *arguments: str) -> None:
    """One `emostream` command on one thread; its output goes to a log beside the run."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "cluster", *arguments]
    with (out / "log").open("ab") as stream:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="training seeds a world")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--keep", type=Path, default=None, help="folder to work in and keep; default: a temporary one")
    options = parser.parse_args()
    worlds = [f"world-{number}" for number in range(options.worlds)] + ["null-0"]
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        write_worlds(folder, worlds)
        jobs = [(w, m, s) for w in worlds for s in range(options.seeds) for m in options.methods]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            found = pool.map(lambda job: train_and_evaluate(folder, *job, options.steps), jobs)
            scores = dict(zip(jobs, found, strict=True))
    report(scores, options.methods)


def report(scores: dict[tuple[str, str, int], dict[str, float]], methods: Sequence[str]) -> None:
    """The table: A-ACC over worlds and seeds, difference to vanilla, paired t-test; the controls beside it."""
    sys.stdout.write(f"{machine()}\nA-ACC in percent, speakers unseen in training\n")
    figures = {}
    for kind in ("world", "null"):
        for method in methods:
            runs = [key for key in scores if key[0].startswith(kind) and key[1] == method]
            own = [100 * scores[key]["same"] for key in runs]
            base = [100 * scores[world, "vanilla", seed]["same"] for world, _, seed in runs]
            controls = {c: statistics.mean(100 * scores[k][c] for k in runs) for c in CONTROLS if c in scores[runs[0]]}
            p = float(ttest_rel(own, base).pvalue) if method != "vanilla" and len(own) > 1 else None
            gain = statistics.mean(own) - statistics.mean(base)
            figures[f"{kind}: {method}"] = {"a_acc": statistics.mean(own), "gain": gain, "p": p, **controls}
            shown = "".join(f"  {control} {value:5.1f}" for control, value in controls.items())
            tested = "" if p is None else f"  {gain:+5.1f} (p {p:.3f})"
            sys.stdout.write(f"{kind:6s} {method:24s} {statistics.mean(own):5.1f}{tested}{shown}\n")
    print_result("personalization", figures)


if __name__ == "__main__":
    main()
