"""Small teachers learn what is plainly there, hold speakers out, and save loadable checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from transformers import (
    AutoModelForAudioClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import World, iterate_samples, write_corpus
from trainers.models.classifiers.face_sequence import FaceSequenceClassifier
from trainers.models.encoders.registry import register_models
from trainers.teachers.inputs import (
    TeacherKind,
    TrainingUtterance,
    classes_of,
    read_training_utterances,
)
from trainers.teachers.models import build_teacher, build_tokenizer
from trainers.teachers.train import (
    REPORT_NAME,
    TeacherConfig,
    TeacherReport,
    split_speakers,
    train_teacher,
)

KINDS: tuple[TeacherKind, ...] = ("audio", "face", "text")
LABELS = ("anger", "happiness", "calm")
QUICK = TeacherConfig(num_steps=80, batch_size=16, learning_rate=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_teacher_learns_what_is_plainly_there_and_loads_back(
    kind: TeacherKind, tmp_path: Path
) -> None:
    """A teacher, also loaded by transformers, classifies unheard speakers without a mistake."""
    report = train_teacher(kind, separable_utterances(), QUICK, tmp_path)

    assert report.classes == ("anger", "happiness", "calm")
    assert (report.num_training_speakers, report.num_validation_speakers) == (4, 1)
    assert (report.accuracy, report.macro_f1) == (1.0, 1.0)

    stored = json.loads((tmp_path / REPORT_NAME).read_text())
    assert TeacherReport(**{**stored, "classes": tuple(stored["classes"])}) == report

    unheard = separable_utterances(seed=9)
    labels, logits = predict_with_loaded(kind, tmp_path, unheard)
    assert labels == [utterance.label for utterance in unheard]
    assert (tmp_path / "model.safetensors").exists()
    assert torch.isfinite(logits).all()


def test_the_saved_checkpoint_is_calibrated_on_the_held_out_speakers(tmp_path: Path) -> None:
    """The loaded model's cross-entropy is the reported one, and it is not above the raw one."""
    utterances = noisy_utterances()
    report = train_teacher(
        "face",
        utterances,
        replace(QUICK, num_steps=150, dropout=0.0, label_smoothing=0.0),
        tmp_path,
    )

    _, validation = split_speakers(utterances, QUICK.validation_share, QUICK.seed)
    _, logits = predict_with_loaded("face", tmp_path, validation)
    labels = torch.tensor([report.classes.index(utterance.label) for utterance in validation])

    assert report.temperature > 1.2
    assert report.cross_entropy < report.cross_entropy_uncalibrated
    assert float(F.cross_entropy(logits, labels)) == pytest.approx(report.cross_entropy, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_training_again_gives_the_same_bytes(kind: TeacherKind, tmp_path: Path) -> None:
    """The result depends only on seed and utterances, and the caller's random state is kept."""
    torch.manual_seed(77)
    threads, state = torch.get_num_threads(), torch.get_rng_state()

    for name in ("first", "second"):
        train_teacher(kind, separable_utterances(), replace(QUICK, num_steps=3), tmp_path / name)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.get_num_threads() == threads

    first, second = (
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("first", "second")
    )
    assert first == second

    train_teacher(
        kind, separable_utterances(), replace(QUICK, num_steps=3, seed=1), tmp_path / "other"
    )
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != first


def test_training_on_spectra_computes_what_the_model_computes_from_waveforms() -> None:
    """The teacher trains on cached log-mel, and its logits are those of the model's own pass."""
    utterances = separable_utterances()
    teacher = build_teacher("audio", utterances, LABELS, dropout=0.3)
    teacher.model.eval()

    audio = [_tensor(utterance.audio) for utterance in utterances[:5]]
    with torch.inference_mode():
        cached = teacher.logits(teacher.prepare(utterances[:5]))
        direct = torch.cat(
            [teacher.model(input_values=samples.unsqueeze(0)).logits for samples in audio]
        )

    torch.testing.assert_close(cached, direct, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_augmentation_changes_the_logits_and_is_seeded(kind: TeacherKind) -> None:
    """The same generator gives the same alteration, and without a generator there is none."""
    utterances = separable_utterances()
    teacher = build_teacher(kind, utterances, LABELS, dropout=0.0)
    inputs = teacher.prepare(utterances[:8])

    with torch.inference_mode():
        plain, again = teacher.logits(inputs), teacher.logits(inputs)
        first, second = (teacher.logits(inputs, torch.Generator().manual_seed(4)) for _ in range(2))

    assert torch.equal(plain, again)
    assert torch.equal(first, second)
    assert not torch.allclose(plain, first)


def test_held_out_speakers_are_nobody_the_teacher_learned_from() -> None:
    """Whole speakers are held out, whatever the order of the utterances."""
    utterances = separable_utterances()
    training, validation = split_speakers(utterances, 0.4, seed=3)
    heard, unheard = ({utterance.speaker for utterance in part} for part in (training, validation))

    assert not heard & unheard
    assert len(unheard) == 2

    _, backwards = split_speakers(utterances[::-1], 0.4, seed=3)
    assert {utterance.speaker for utterance in backwards} == unheard


def test_labeled_utterances_are_read_from_shards(tmp_path: Path) -> None:
    """Every sample comes back with its truth and the modalities that were asked for."""
    config = WorldConfig(mean_utterances=4.0, min_utterances=3)
    write_corpus(config, str(tmp_path), speakers=range(3))
    samples = list(iterate_samples(World(config), range(3)))

    utterances = read_training_utterances(str(tmp_path / "*.tar"), KINDS)
    assert [(u.speaker, u.label, u.transcript) for u in utterances] == [
        (sample.speaker, sample.emotion, sample.transcript) for sample in samples
    ]
    assert all(
        utterance.audio is not None and utterance.face_features is not None
        for utterance in utterances
    )

    silent = read_training_utterances(str(tmp_path / "*.tar"), ("text",))
    assert all(utterance.audio is None for utterance in silent)


def test_classes_stand_in_the_projects_order_and_foreign_ones_last() -> None:
    """A corpus may have labels of its own, which come last."""
    utterances = [
        TrainingUtterance(speaker="a", label=label)
        for label in ("calm", "sadness", "boredom", "neutral")
    ]
    assert classes_of(utterances) == ("neutral", "sadness", "boredom", "calm")


def test_the_tokenizer_knows_the_training_words_and_marks_others() -> None:
    """The tokenizer lowers case, splits punctuation, and makes an unknown word one token."""
    tokenizer = build_tokenizer(["I am so happy", "not again!"])
    assert tokenizer.convert_ids_to_tokens(tokenizer("Happy, again!")["input_ids"]) == [
        *("[CLS]", "happy", "[UNK]", "again", "!", "[SEP]")
    ]


@pytest.mark.parametrize(
    ("utterances", "message"),
    [
        (
            [TrainingUtterance(speaker="a", label=label, transcript="x") for label in LABELS],
            "1 speaker",
        ),
        (
            [TrainingUtterance(speaker=name, label="anger", transcript="x") for name in "ab"],
            "1 label",
        ),
        (
            [TrainingUtterance(speaker=name, label=label) for name in "ab" for label in LABELS],
            "without a transcript",
        ),
    ],
)
def test_a_training_set_that_cannot_teach_is_refused(
    utterances: list[TrainingUtterance], message: str, tmp_path: Path
) -> None:
    """The error says what is missing, and nothing is saved."""
    with pytest.raises(ValueError, match=message):
        train_teacher("text", utterances, QUICK, tmp_path / "teacher")
    assert not (tmp_path / "teacher").exists()


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": 0}, {"learning_rate": 0.0}, {"dropout": 1.0}, {"validation_share": 1.0}],
)
def test_a_training_that_cannot_run_is_refused(changes: dict[str, Any]) -> None:
    """The error names the option."""
    with pytest.raises(ValueError, match=next(iter(changes))):
        TeacherConfig(**changes)


def separable_utterances(*, seed: int = 0, num_speakers: int = 5) -> list[TrainingUtterance]:
    """Make utterances in which each label has a tone, a feature and a word of its own."""
    rng = np.random.default_rng(seed)

    return [
        TrainingUtterance(
            speaker=f"{seed}-{speaker}",
            label=label,
            audio=_tone(300.0 * 3**number, rng),
            face_features=(rng.normal(0, 0.3, (6, 4)) + 2 * np.eye(4)[number]).astype(np.float32),
            transcript=f"the {('red', 'green', 'blue')[number]} door number {rng.integers(5)}",
        )
        for speaker in range(num_speakers)
        for _ in range(4)
        for number, label in enumerate(LABELS)
    ]


def noisy_utterances() -> list[TrainingUtterance]:
    """Make few and noisy utterances, on which a teacher becomes overconfident."""
    rng = np.random.default_rng(2)

    return [
        TrainingUtterance(
            speaker=f"{speaker}",
            label=label,
            face_features=(rng.normal(0, 1.0, (1, 20)) + 0.8 * np.eye(20)[number]).astype(
                np.float32
            ),
        )
        for speaker in range(5)
        for _ in range(8)
        for number, label in enumerate(LABELS)
    ]


def predict_with_loaded(
    kind: TeacherKind, folder: Path, utterances: Sequence[TrainingUtterance]
) -> tuple[list[str], torch.Tensor]:
    """Labels and logits of the checkpoint as transformers loads it, one utterance at a time."""
    if kind == "audio":
        register_models()
        model = AutoModelForAudioClassification.from_pretrained(folder).eval()
        inputs = [
            {"input_values": _tensor(utterance.audio).unsqueeze(0)} for utterance in utterances
        ]
    elif kind == "face":
        model = FaceSequenceClassifier.from_pretrained(folder).eval()
        inputs = [
            {"face_features": _tensor(utterance.face_features).unsqueeze(0)}
            for utterance in utterances
        ]
    else:
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        inputs = [
            dict(tokenizer(utterance.transcript, return_tensors="pt")) for utterance in utterances
        ]

    with torch.inference_mode():
        logits = torch.cat([model(**one).logits for one in inputs])
    return [model.config.id2label[number] for number in logits.argmax(dim=-1).tolist()], logits


def _tone(frequency_hz: float, rng: np.random.Generator) -> NDArray[np.float32]:
    seconds = np.arange(rng.integers(3000, 5000)) / 16_000
    tone = 0.1 * np.sin(2 * np.pi * frequency_hz * seconds) + 0.005 * rng.standard_normal(
        len(seconds)
    )
    return tone.astype(np.float32)


def _tensor(values: NDArray[np.float32] | None) -> torch.Tensor:
    assert values is not None
    return torch.from_numpy(values)
