"""Trains the small teachers, each in about a minute: classifiers of voices, of faces and of words.

The small teachers make the demonstration self-contained, because nothing has to be downloaded. A
corpus for which there are no public teachers can have its own. The training loop is plain and short
on purpose: three models of 0.2 million parameters do not need the engine (sharded, resumable,
distributed), which is a separate part of `trainers`.

Whole speakers are held out. They are not used to choose the model. They tell how good the model is
on people it has not heard. The model's temperature is fitted to them, because agreement compares
distributions (see `trainers.evaluation.calibration`).

Training runs in one thread. Sums are then split in the same way on every machine, so the result
depends only on the seed and the utterances. Models this small gain little from a second thread: a
step of the largest takes 56 ms with one thread and 42 ms with two.

Early stopping on the held-out speakers was rejected: with two to eight speakers it would pick
noise, and the reported figures would look better than they are.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from torch import Tensor

from shards.config import ConfigError, option, require_positive, require_share
from shards.storage.documents import write_json
from trainers.evaluation.calibration import fit_temperature, scale_logits
from trainers.teachers.inputs import TeacherKind, TrainingUtterance, classes_of
from trainers.teachers.models import Teacher, build_teacher

REPORT_NAME = "teacher_report.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfig:
    """Options of the training; `for_kind` gives values that suit a few thousand utterances."""

    num_steps: int = option(help="Number of optimizer steps.", default=600)
    batch_size: int = option(help="Number of utterances in a step.", default=32)
    learning_rate: float = option(
        help="Peak of the learning rate, which follows a one-cycle schedule.", default=2e-3
    )
    weight_decay: float = option(help="Weight decay of AdamW; 0: none.", default=0.05)
    dropout: float = option(help="Dropout probability of the model.", default=0.2)
    label_smoothing: float = option(
        help="Share of every target that is spread over all classes, so that the model does not "
        "learn few speakers by heart; 0: none.",
        default=0.1,
    )
    validation_share: float = option(
        help="Share of the speakers that are held out; at least one speaker is.", default=0.2
    )
    seed: int = option(
        help="Seed of the choice of held-out speakers, the initial weights, the order and the "
        "augmentation.",
        default=0,
    )

    def __post_init__(self) -> None:
        require_positive(self, "num_steps", "batch_size", "learning_rate")
        require_share(self, "dropout", "label_smoothing")
        if not 0.0 < self.validation_share < 1.0:
            raise ConfigError(
                f"validation_share: got {self.validation_share}, expected a share between 0 and 1"
            )

    @classmethod
    def for_kind(cls, kind: TeacherKind) -> "TeacherConfig":
        """The options that work for each modality.

        Sound needs the most steps. Faces are learned by heart soonest.
        """
        if kind == "audio":
            return cls(num_steps=800, learning_rate=4e-3)
        if kind == "face":
            return cls(num_steps=300, dropout=0.3)
        return cls(num_steps=250, batch_size=64, learning_rate=3e-3)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherReport:
    """How the training went.

    Accuracy, macro-F1 and cross-entropy (before and after calibration) are those of the held-out
    speakers.
    """

    kind: TeacherKind
    classes: tuple[str, ...]
    num_training: int
    num_validation: int
    num_training_speakers: int
    num_validation_speakers: int
    accuracy: float
    macro_f1: float
    cross_entropy_uncalibrated: float
    cross_entropy: float
    temperature: float
    train_seconds: float


def train_teacher(
    kind: TeacherKind,
    utterances: Sequence[TrainingUtterance],
    config: TeacherConfig,
    out_dir: str | Path,
) -> TeacherReport:
    """Train one teacher and save it in `out_dir` as transformers does.

    The preprocessing and a report are saved too. The report is written last, so a folder with a
    report is complete. Raises ValueError when the utterances have fewer than two speakers, have
    fewer than two labels, or lack the modality.
    """
    started = time.perf_counter()
    classes = classes_of(utterances)
    if len(classes) < 2:
        raise ValueError(
            f"got utterances with {len(classes)} label(s), expected at least 2 for a classifier; "
            "give utterances of several emotions"
        )

    training, validation = split_speakers(utterances, config.validation_share, config.seed)
    with _reproducible(config.seed):
        teacher = build_teacher(kind, training, classes, config.dropout)
        _optimize(teacher, teacher.prepare(training), _label_ids(training, classes), config)
        logits = predict_logits(teacher, teacher.prepare(validation))

    # The logits above are those before calibration; the report gets both cross-entropies from them.
    temperature = fit_temperature(logits, _label_ids(validation, classes))
    scale_logits(teacher.model, len(classes), temperature)

    report = TeacherReport(
        kind=kind,
        classes=classes,
        num_training=len(training),
        num_validation=len(validation),
        num_training_speakers=len({utterance.speaker for utterance in training}),
        num_validation_speakers=len({utterance.speaker for utterance in validation}),
        **_quality(logits, _label_ids(validation, classes), temperature),
        temperature=temperature,
        train_seconds=time.perf_counter() - started,
    )

    _save(teacher, report, Path(out_dir))
    return report


def split_speakers(
    utterances: Sequence[TrainingUtterance], validation_share: float, seed: int
) -> tuple[list[TrainingUtterance], list[TrainingUtterance]]:
    """The training utterances and the held-out utterances; no speaker is in both.

    Which speakers are held out does not depend on the order of the utterances. Raises ValueError
    for fewer than two speakers.
    """
    # Sorted, because the order of a set changes from one process to the next.
    speakers = sorted({utterance.speaker for utterance in utterances})
    if len(speakers) < 2:
        raise ValueError(
            f"got utterances of {len(speakers)} speaker(s), expected at least 2, because one is "
            "held out; give utterances of more speakers"
        )

    # At least one speaker is held out, and at least one is left for training.
    order = torch.randperm(len(speakers), generator=torch.Generator().manual_seed(seed)).tolist()
    num_held_out = min(len(speakers) - 1, max(1, round(validation_share * len(speakers))))
    held_out = {speakers[position] for position in order[:num_held_out]}

    return (
        [utterance for utterance in utterances if utterance.speaker not in held_out],
        [utterance for utterance in utterances if utterance.speaker in held_out],
    )


@torch.inference_mode()
def predict_logits(teacher: Teacher, inputs: Sequence[Tensor], batch_size: int = 64) -> Tensor:
    """The logits [N, C] of N inputs, without augmentation or dropout."""
    teacher.model.eval()
    starts = range(0, len(inputs), batch_size)
    return torch.cat(
        [teacher.logits(inputs[start : start + batch_size]) for start in starts]
    ).clone()


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Run with one thread and a seeded global random number generator; put both back afterwards.

    The initial weights and dropout draw from the global generator.
    """
    num_threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(num_threads)


def _optimize(
    teacher: Teacher, inputs: Sequence[Tensor], labels: Tensor, config: TeacherConfig
) -> None:
    optimizer = torch.optim.AdamW(
        teacher.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=config.num_steps + 1, pct_start=0.15
    )

    generator = torch.Generator().manual_seed(config.seed)
    batches = _endless_batches(len(inputs), config.batch_size, generator)
    teacher.model.train()
    for _ in range(config.num_steps):
        batch = next(batches)
        logits = teacher.logits([inputs[position] for position in batch], augment=generator)
        loss = F.cross_entropy(logits, labels[batch], label_smoothing=config.label_smoothing)

        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(teacher.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _endless_batches(
    num_inputs: int, batch_size: int, generator: torch.Generator
) -> Iterator[list[int]]:
    """The positions of the inputs of each batch, without end.

    Every input comes once before any input comes again, so a batch may end one round and begin the
    next.
    """
    queue: list[int] = []
    while True:
        while len(queue) < batch_size:
            queue += torch.randperm(num_inputs, generator=generator).tolist()
        yield queue[:batch_size]
        queue = queue[batch_size:]


def _label_ids(utterances: Sequence[TrainingUtterance], classes: Sequence[str]) -> Tensor:
    return torch.tensor([classes.index(utterance.label) for utterance in utterances])


def _quality(logits: Tensor, labels: Tensor, temperature: float) -> dict[str, float]:
    predicted = logits.argmax(dim=-1)
    return {
        "accuracy": float((predicted == labels).float().mean()),
        "macro_f1": float(f1_score(labels, predicted, labels=np.unique(labels), average="macro")),
        "cross_entropy_uncalibrated": float(F.cross_entropy(logits, labels)),
        "cross_entropy": float(F.cross_entropy(logits / temperature, labels)),
    }


def _save(teacher: Teacher, report: TeacherReport, folder: Path) -> None:
    teacher.model.eval()
    teacher.model.save_pretrained(folder)
    teacher.save_preprocessing(folder)
    write_json(folder / REPORT_NAME, asdict(report))
