"""Methods of the personalization benchmark, and their runs, which are commands of `emostream`.

The commands run one after the other in a process. A run has a folder of its own and is not repeated
when it is there. Every recognizer sees 64 utterances a step, for the same number of steps, and its
checkpoint is chosen on validation speakers.
"""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import yaml

from cluster.cli import main
from shards.loading.index import read_index
from shards.speakers.pldc import Mode, calibrate
from tests.benchmarks.training.personalization_corpora import (
    GENERAL_SEED,
    fold_options,
    folder_of,
)
from trainers.evaluation.metrics import score_values
from trainers.evaluation.targets import ValueTarget

UTTERANCES = {"batch_seconds": 400.0, "max_utterances": 64}
# Keeps the codebook in use, and gives the loss over halves a temperature that means something; see
# docs/decisions.md.
IN_USE = {"normalize_codes": True, "restart_codes": True, "similarity": "cosine"}
NO_CODEBOOK = {"quantized": False, "similarity": "cosine"}
# Spans of 4 frames, of which there are 25 a second.
MASKING = {"num_labels": 100, "mask_length": 4, "min_samples": 8000, "label_layer": 2}
GENERAL = f"general-{GENERAL_SEED}"
PLAIN = "vanilla"


@dataclass(frozen=True, slots=True)
class Method:
    """A recipe, its options, its sets, and the encoder that it starts from.

    `start` names one of `STARTS`; None starts from nothing.
    """

    recipe: str = "finetune"
    model: Mapping[str, Any] = field(default_factory=dict)
    start: str | None = None
    set_size: int | None = None

    @property
    def has_sets(self) -> bool:
        """Whether it recognizes an utterance by others of the same speaker."""
        is_standardized = bool(self.model.get("standardize_frames"))
        return is_standardized or self.recipe in ("setpeer", "speaker-normalized")


# What an encoder learns before fine-tuning: speech in general, then the corpus' sound, then also
# who speaks.
STARTS: Mapping[str, Method] = {
    "general": Method("tapt", {**MASKING, "label_layer": None}),
    "tapt": Method("tapt", MASKING, "general"),
    "papt": Method("papt", MASKING, "general"),
}
METHODS: Mapping[str, Method] = {
    PLAIN: Method(),
    "vanilla, standardized": Method(model={"standardize_frames": True}),
    "SetPeER, codes in use": Method("setpeer", IN_USE),
    "SetPeER, as printed": Method("setpeer"),
    "SetPeER, no codebook": Method("setpeer", NO_CODEBOOK),
    "SetPeER, standardized": Method("setpeer", NO_CODEBOOK | {"standardize_frames": True}),
    "speaker-normalized": Method("speaker-normalized"),
    "speaker-normalized, MLP": Method("speaker-normalized", {"hidden_units": 32}),
    "weighting": Method("weighting"),
    "vanilla, pre-trained": Method(model={"head": "interpreter"}, start="general"),
    "TAPT": Method(model={"head": "interpreter"}, start="tapt"),
    "PAPT": Method(model={"head": "interpreter"}, start="papt"),
}
# Table X of setpeer-emoceleb, each against "SetPeER, codes in use".
ABLATIONS: Mapping[str, Method] = {
    "without L_NCE": Method("setpeer", IN_USE | {"contrastive_weight": 0.0}),
    "without VQ": METHODS["SetPeER, no codebook"],
    "without both": Method("setpeer", {"quantized": False, "contrastive_weight": 0.0}),
    "L_NCE by dot product": Method("setpeer", IN_USE | {"similarity": "dot"}),
    "fusion addition": Method("setpeer", IN_USE | {"fusion": "addition", "num_prefixes": 1}),
    "fusion cross-attention": Method("setpeer", IN_USE | {"fusion": "cross_attention"}),
}
# Fig. 8: the set size in training and at test; 8 is the reference's.
TRAINING_SIZES: Mapping[str, Method] = {
    f"K = {size}": Method("setpeer", IN_USE, set_size=size) for size in (2, 4, 16, 32)
}
REGRESSION = Method(model={"head": "interpreter"})
LABELS = ["arousal", "valence"]


@dataclass(frozen=True, slots=True)
class Bench:
    """The place where runs are kept, and how long they train."""

    folder: Path
    steps: int
    adaptation_steps: int

    def train(self, corpus: str, method: Method, seed: int, **data: Any) -> Path:
        """Train a run unless it is there, and return its folder.

        `data` are options of what is loaded and predicted.
        """
        kind = "values" if data else "classes"
        out = self.folder / "runs" / corpus / f"{_name(method)}-{kind}-{self.steps}-{seed}"
        if (out / "train" / "train.json").exists():
            return out

        out.mkdir(parents=True, exist_ok=True)
        encoder: dict[str, Any] = {}
        if method.start is not None:
            encoder = {
                "checkpoint": str(self.adapt(method.start, corpus, seed)),
                "freeze_front_end": False,
            }
        sets = (
            {}
            if method.set_size is None
            else {"sets": {"set_size": method.set_size, "num_sets": 64 // method.set_size}}
        )

        folds = fold_options(corpus)
        options = {"encoder": encoder, "data": {"utterances": UTTERANCES} | sets | folds | data}
        self._run(out, method, corpus, seed, self.steps, options)
        return out

    def evaluate(self, run: Path, corpus: str, name: str, *arguments: str) -> dict[str, Any]:
        """Read metrics.json, of the test speakers unless the arguments say otherwise."""
        if not (run / name / "metrics.json").exists():
            checkpoint = ["--checkpoint", f"{run}/train/best", "--shards", self.shards(corpus)]
            command("evaluate", *checkpoint, "--out", f"{run}/{name}", *arguments)

        found: dict[str, Any] = json.loads((run / name / "metrics.json").read_text())
        return found

    def adapt(self, start: str, corpus: str, seed: int) -> Path:
        """Return the encoder that a method starts from, adapted when it is not there yet."""
        method = STARTS[start]
        # The general encoder is one for all corpora and seeds, as a published one would be.
        where, seed = (GENERAL, 0) if start == "general" else (corpus, seed)
        out = self.folder / "runs" / where / f"start-{start}-{self.adaptation_steps}-{seed}"

        if not (out / "train" / "train.json").exists():
            out.mkdir(parents=True, exist_ok=True)
            encoder: dict[str, Any] = {}
            if method.start is not None:
                encoder = {
                    "checkpoint": str(self.adapt(method.start, corpus, seed)),
                    "freeze_front_end": False,
                }

            options = {"encoder": encoder, "data": {"utterances": UTTERANCES}}
            self._run(out, method, where, seed, self.adaptation_steps, options)
        return out / "train" / "best"

    def _run(
        self,
        out: Path,
        method: Method,
        corpus: str,
        seed: int,
        steps: int,
        options: Mapping[str, Any],
    ) -> None:
        values = {
            **options,
            "recipe": method.recipe,
            "shards": self.shards(corpus),
            "out": str(out / "train"),
            "model": dict(method.model),
            "engine": {"seed": seed}
            if method.recipe == "speaker-normalized"
            else {"num_steps": steps, "seed": seed, "checkpoint_every": steps},
            "resume": (out / "train" / "checkpoints").exists(),
        }

        (out / "options.yaml").write_text(yaml.safe_dump(values))
        command("train", "--config", str(out / "options.yaml"))

    def shards(self, corpus: str) -> str:
        """The pattern of a corpus' packed shards."""
        return f"{self.folder}/{folder_of(corpus)}/*.tar"


def command(*arguments: str) -> None:
    """Run one `emostream` command in this process."""
    status = main(arguments)
    if status:
        raise RuntimeError(f"emostream {' '.join(arguments)} exited with {status}")


def true_calibration(evaluation: Path, shards: str, mode: Mode) -> float:
    """Compute how far PLDC could go: the CCC over speakers if Eq. 3 had the true statistics.

    These are the mean and standard deviation of each test speaker's labels.
    """
    predictions = pq.read_table(evaluation / "predictions.parquet")
    index = read_index(shards).split("test")
    targets, _ = ValueTarget(LABELS).truth(index)
    scores = np.stack([predictions[f"score_{label}"].to_numpy() for label in LABELS], axis=1)
    speakers = np.asarray(predictions["speaker"].to_pylist(), dtype=object)

    calibrated = np.empty_like(scores)
    for speaker in np.unique(speakers.astype(str)):
        mine = speakers.astype(str) == speaker
        truth = targets.array[mine].astype(np.float64)
        calibrated[mine] = calibrate(scores[mine], truth.mean(axis=0), truth.std(axis=0), mode)

    return statistics.mean(score_values(targets.array, calibrated, speakers).over_speakers)


def _name(method: Method) -> str:
    options = [f"{name}-{value}" for name, value in sorted(method.model.items())]
    sets = [f"sets-of-{method.set_size}"] if method.set_size else []
    return "-".join([method.recipe, *options, *([method.start] if method.start else []), *sets])
