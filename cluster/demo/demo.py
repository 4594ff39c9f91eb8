"""`emostream demo`: the whole job on a synthetic corpus, from nothing to trained models.

Nothing is downloaded. The demo prints the command line of each step, so that any step can be
repeated by hand, and runs it, or calls the function behind it. One seed makes two groups of
speakers: the teachers learn from the labeled group; the truth of the other group is stored, and
used only to measure. The selection is as published: words and face label the voice. On what it
keeps, a recognizer of the voice is trained twice, without and with personalization, and measured on
speakers that neither has heard. Last, the training speakers are embedded and served, and one of the
unheard speakers is looked up among them. When the demo is run again, it keeps the finished steps.
"""

import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.demo.speakers import serve_speakers
from cluster.jobs.label import LabelConfig, label
from cluster.pages.report import ReportConfig, write_report
from cluster.progress import progress
from cluster.training.evaluate import evaluate
from shards.config import ConfigError, option, require_at_least
from shards.packing.job import PackConfig, pack
from shards.selection.job import select
from shards.selection.rule import SelectConfig
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write
from shards.storage.urls import require_local
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import write_corpus
from trainers.engine.checkpoints import CHECKPOINTS_NAME, RESULT_NAME
from trainers.engine.tracking import last_step
from trainers.evaluation.config import METRICS_NAME, EvaluateConfig

if TYPE_CHECKING:
    # Why not at run time: it imports torch, which the help text does not need.
    from trainers.teachers.inputs import TeacherKind

MARKER_NAME = "demo.json"
POLL_SECONDS = 0.5
# Name of the panel's entry -> the input that its teacher learns from.
KINDS: "dict[str, TeacherKind]" = {"audio": "audio", "vision": "face", "text": "text"}

# Both recipes train on about as many utterances a step.
RECIPES: dict[str, dict[str, Any]] = {
    "finetune": {"data": {"utterances": {"batch_seconds": 100.0, "max_utterances": 64}}},
    "setpeer": {"model": {"normalize_codes": True, "restart_codes": True, "similarity": "cosine"}},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """Options of `emostream demo`."""

    out: str = option(default="demo", help="Folder for everything the demo makes.")
    seed: int = option(
        default=0, help="Seed of the synthetic world, the teachers and the selection."
    )
    labeled_speakers: int = option(
        default=40, help="Speakers that the teachers learn from.", former=("labelled_speakers",)
    )
    unlabeled_speakers: int = option(
        default=120,
        help="Speakers whose utterances the teachers label.",
        former=("unlabelled_speakers",),
    )
    num_steps: int = option(default=500, help="Training steps of each recognizer.")
    min_per_speaker: int = option(
        default=8, help="Fewest kept utterances of a speaker (the paper: 50 of several hundred)."
    )

    def __post_init__(self) -> None:
        require_at_least(self, 10, "--labeled-speakers", "--unlabeled-speakers")
        require_local(self, "--out")


def run_demo(config: DemoConfig) -> int:
    """Run every step, print the tables, return the exit status of the labeling job."""
    started = time.monotonic()
    out = Path(config.out)
    refuse_other_demo(config, out)

    make_corpus(config, out)
    train_teachers(config, out)

    status = label_corpus(out)
    if status:
        return status

    summary = select_and_pack(config, out)
    page = write_report(ReportConfig(dir=str(out / "selection"), out=str(out / "report.html")))
    print_table(summary)

    train_recognizers(config, out)
    print_recognizers({recipe: evaluate_recognizer(out, recipe) for recipe in RECIPES})
    for line in serve_speakers(out, f"{out}/finetune/best"):
        say(line)

    say(f"\n{time.monotonic() - started:.0f} s in all. Open {page}")
    return 0


def refuse_other_demo(config: DemoConfig, out: Path) -> None:
    """Refuse a folder of another demo, as a mixture of two would report on neither."""
    marker = out / MARKER_NAME
    mine = {name: value for name, value in asdict(config).items() if name != "out"}

    if marker.exists():
        theirs = read_json(marker)
        if theirs != mine:
            raise ConfigError(
                f"{out} holds a demo with other options ({theirs}); give another --out or remove it"
            )
        return

    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty and holds no demo; give another --out")

    out.mkdir(parents=True, exist_ok=True)
    write_json(marker, mine)


def make_corpus(config: DemoConfig, out: Path) -> None:
    """Write the labeled and the unlabeled shards; each speaker is in one of them only."""
    speakers = range(config.labeled_speakers + config.unlabeled_speakers)
    parts = {
        "labeled": speakers[: config.labeled_speakers],
        "unlabeled": speakers[config.labeled_speakers :],
    }

    for part, members in parts.items():
        folder = out / "corpus" / part
        if (folder / "_complete").exists():
            continue

        say(f"corpus: {len(members)} synthetic speakers, {part}")
        write_corpus(
            WorldConfig(seed=config.seed),
            str(folder),
            speakers=members,
            num_workers=os.cpu_count() or 1,
        )
        (folder / "_complete").touch()


def train_teachers(config: DemoConfig, out: Path) -> None:
    """Train the teachers that are not there yet, and write the panel that names them."""
    # Why here: these import torch, which the other commands' start can do without.
    from transformers.utils import logging as transformers_logging

    from trainers.teachers.inputs import read_training_utterances
    from trainers.teachers.train import TeacherConfig, train_teacher

    # Why no bar: it would show every saved file.
    transformers_logging.disable_progress_bar()

    missing = [
        name for name in KINDS if not (out / "teachers" / name / "teacher_report.json").exists()
    ]
    utterances = (
        read_training_utterances(f"{out}/corpus/labeled/*.tar", tuple(KINDS.values()))
        if missing
        else []
    )

    with progress("train", "teachers") as update:
        for number, name in enumerate(missing):
            update(number, len(missing), note=name)
            teacher_config = replace(TeacherConfig.for_kind(KINDS[name]), seed=config.seed)
            train_teacher(KINDS[name], utterances, teacher_config, out / "teachers" / name)
        update(len(missing), len(missing))

    panel: dict[str, Any] = {name: {"checkpoint": f"teachers/{name}"} for name in KINDS}
    with atomic_write(str(out / "panel.yaml")) as stream:
        stream.write(yaml.safe_dump({**panel, "precision": "float32"}, sort_keys=False).encode())


def label_corpus(out: Path) -> int:
    """Label the unlabeled speakers on Ray, and return the exit status of the job."""
    config = LabelConfig(
        shards=f"{out}/corpus/unlabeled/*.tar",
        out=str(out / "predictions"),
        panel=str(out / "panel.yaml"),
    )
    say(f"emostream label --shards '{config.shards}' --out {config.out} --panel {config.panel}")
    return label(config).job.exit_status


def select_and_pack(config: DemoConfig, out: Path) -> dict[str, Any]:
    """Select by words and face, and pack what is kept.

    Returns the summary of the selection, read from its file.
    """
    selection = SelectConfig(
        predictions=str(out / "predictions"),
        out=str(out / "selection"),
        teachers=("text", "vision"),
        min_per_speaker=config.min_per_speaker,
        seed=config.seed,
    )
    say(
        f"emostream select --predictions {selection.predictions} --out {selection.out} --teachers "
        f"text,vision --min-per-speaker {selection.min_per_speaker} --seed {selection.seed}"
    )
    select(selection)

    packing = PackConfig(
        shards=f"{out}/corpus/unlabeled/*.tar", selection=selection.out, out=str(out / "packed")
    )
    say(
        f"emostream pack --shards '{packing.shards}' --selection {packing.selection} --out "
        f"{packing.out}"
    )
    pack(packing)

    summary: dict[str, Any] = read_json(out / "selection" / "summary.json")
    return summary


def train_recognizers(config: DemoConfig, out: Path) -> None:
    """Train the recognizers that are not there yet, side by side.

    Each has a process and a share of the cores: models so small gain little from a second core. The
    process prints to `train.log` in the folder of its recipe. Raises RuntimeError when one fails.
    """
    missing = [recipe for recipe in RECIPES if not (out / recipe / RESULT_NAME).exists()]
    environment = os.environ | {
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // len(RECIPES)))
    }

    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for recipe in missing:
            options = _training_options(config, out, recipe)
            say(f"emostream train --config {options}")
            with (out / recipe / "train.log").open("ab") as log:
                running[recipe] = subprocess.Popen(  # noqa: S603 (our own command)
                    [sys.executable, "-m", "cluster", "train", "--config", str(options)],
                    env=environment,
                    stdout=log,
                    stderr=log,
                )

        with progress("train", "steps") as update:
            while any(process.poll() is None for process in running.values()):
                time.sleep(POLL_SECONDS)
                done = {recipe: last_step(out / recipe) for recipe in missing}
                note = ", ".join(f"{recipe} {steps}" for recipe, steps in done.items())
                update(sum(done.values()), config.num_steps * len(missing), note=note)
    finally:
        for process in running.values():
            process.terminate()

    for recipe, process in running.items():
        if status := process.wait():
            raise RuntimeError(
                f"training {recipe} ended with status {status}; see {out}/{recipe}/train.log"
            )


def evaluate_recognizer(out: Path, recipe: str) -> dict[str, Any]:
    """Measure a recognizer against the truth of the test speakers, and return the metrics."""
    folder = out / recipe
    metrics = folder / "evaluation" / METRICS_NAME

    if not metrics.exists():
        evaluation = EvaluateConfig(
            checkpoint=(str(folder / "best"),),
            shards=f"{out}/packed/*.tar",
            out=str(folder / "evaluation"),
            set_size=0,
        )
        say(
            f"emostream evaluate --checkpoint {folder}/best --shards '{out}/packed/*.tar' --out "
            f"{folder}/evaluation --set-size 0"
        )
        evaluate(evaluation)

    found: dict[str, Any] = read_json(metrics)
    return found


def print_recognizers(found: dict[str, dict[str, Any]]) -> None:
    """Print the papers' figures of both recognizers, over speakers that neither has heard."""
    one = next(iter(found.values()))
    say(
        f"\n{'trained on weak labels, voice only':36s}"
        f"{'ACC':>8s}{'A-ACC':>8s}{'F1':>8s}{'A-F1':>8s}"
    )

    for recipe, metrics in found.items():
        names = ("accuracy", "speaker_accuracy", "macro_f1", "speaker_f1")
        say(f"{recipe:36s}" + "".join(f"{metrics['scores'][name]:8.3f}" for name in names))
    say(
        f"{one['number']} utterances of {one['num_speakers']} unseen speakers, against the truth "
        "(synthetic corpus)"
    )


def print_table(summary: dict[str, Any]) -> None:
    """Print how right the labels are, with 95 % intervals, and how many utterances were kept."""
    quality = summary["quality"]
    rows = {f"{name} teacher alone": scores for name, scores in quality["teachers"].items()}
    rows |= {"both, averaged": quality["combined"], "both, where they agree": quality["kept"]}

    say(
        f"\n{'labels (synthetic corpus)':28s}{'utterances':>11s}"
        f"{'accuracy (95 %)':>22s}{'macro-F1 (95 %)':>22s}"
    )

    for name, scores in rows.items():
        say(
            f"{name:28s}{scores['n']:11d}{_interval(scores['accuracy']):>22s}{_interval(scores['macro_f1']):>22s}"
        )

    kept, total = summary["num_kept"], summary["num_utterances"]
    say(
        f"kept {kept} of {total} utterances ({kept / total:.0%}); the report says why the others "
        "were rejected"
    )


def say(line: str) -> None:
    """Print one line for the person who watches."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _training_options(config: DemoConfig, out: Path, recipe: str) -> Path:
    """Write the file of a recipe's options, beside its folder, and return its path."""
    folder = out / recipe
    folder.mkdir(exist_ok=True)

    values = {
        **RECIPES[recipe],
        "recipe": recipe,
        "shards": f"{out}/packed/*.tar",
        "out": str(folder),
        "resume": (folder / CHECKPOINTS_NAME).exists(),
        "engine": {"num_steps": config.num_steps, "seed": config.seed},
    }

    path = out / f"{recipe}.yaml"
    with atomic_write(str(path)) as stream:
        stream.write(yaml.safe_dump(values, sort_keys=False).encode())
    return path


def _interval(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f}-{score['high']:.3f})"
