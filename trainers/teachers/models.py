"""The three small teachers: a classifier of voices, one of faces and one of words.

Each teacher has the same four parts: an untrained model, inputs that are prepared once, the logits
of a batch with or without augmentation, and the files that a labeler needs beside the weights.

A training set has few speakers, so augmentation imitates other speakers. A shifted spectrum stands
for another vocal tract, a stretched spectrum for another tempo, an offset of the face features for
another resting face, and an unknown word for another vocabulary.

Shapes: B batch, S samples, T frames or tokens, F frames, M mel bands, D features, C classes.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from trainers.models.classifiers.face_sequence import FaceSequenceClassifier, FaceSequenceConfig
from trainers.models.classifiers.mel import MelClassifier, MelClassifierConfig
from trainers.models.parts.pooling import masked_mean_and_std
from trainers.teachers.inputs import TeacherKind, TrainingUtterance

# Augmentation is mild on purpose. With gains, shifts and masks two to four times as large, 800
# steps were too few for the voice teacher to learn: on RAVDESS (12 unseen actors, 8 classes) its
# unweighted recall was .35 in place of .45, and that of logistic regression is .42.
_MAX_GAIN_DB = 1.0
# The room's noise, in natural logarithms of energy below the mean log energy of the utterance.
_MEAN_ROOM_BELOW, _ROOM_SPREAD = 7.0, 3.0
_MAX_BAND_SHIFT = 1
_MAX_TEMPO_CHANGE = 0.15
_MAX_MASKED_BANDS, _MAX_MASKED_SHARE = 8, 0.08
_FEATURE_OFFSET, _FEATURE_NOISE = 0.5, 0.3
_WORD_DROPOUT = 0.1
_SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")


class Teacher(Protocol):
    """The model of one modality, with the preparation of its inputs.

    The inputs of `logits` are tensors that `prepare` has returned, in any selection and order.
    """

    model: PreTrainedModel

    def prepare(self, utterances: Sequence[TrainingUtterance]) -> list[Tensor]:
        """One tensor per utterance, with all work done that does not depend on augmentation."""

    def logits(self, inputs: Sequence[Tensor], augment: torch.Generator | None = None) -> Tensor:
        """The logits [B, C]. With a generator, the inputs are first altered at random."""

    def save_preprocessing(self, folder: Path) -> None:
        """Write the files that a labeler needs beside configuration and weights."""


def build_teacher(
    kind: TeacherKind,
    utterances: Sequence[TrainingUtterance],
    classes: Sequence[str],
    dropout: float,
) -> Teacher:
    """An untrained teacher for `classes`.

    Its feature statistics or its vocabulary come from `utterances`, which are its training set.
    """
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(classes)),
        "label2id": {name: number for number, name in enumerate(classes)},
    }

    if kind == "audio":
        return AudioTeacher(MelClassifierConfig(dropout_probability=dropout, **labels), utterances)
    if kind == "face":
        size = _features(utterances[0]).shape[1]
        return FaceTeacher(
            FaceSequenceConfig(feature_size=size, dropout_probability=dropout, **labels), utterances
        )

    tokenizer = build_tokenizer(_transcript(utterance) for utterance in utterances)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        # BERT's own 0.02 suits 768 dimensions. With 64 dimensions and 0.02, every second seed had
        # not begun to learn when training ended.
        initializer_range=0.1,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=tokenizer.pad_token_id,
        **labels,
    )
    return TextTeacher(config, tokenizer)


class AudioTeacher:
    """A classifier of log-mel spectra. The spectra are computed once, before training."""

    def __init__(
        self, config: MelClassifierConfig, utterances: Sequence[TrainingUtterance]
    ) -> None:
        self.model = MelClassifier(config)
        frames_FM = torch.cat(self.prepare(utterances))
        self.model.set_statistics(frames_FM.mean(dim=0), frames_FM.std(dim=0))

    def prepare(self, utterances: Sequence[TrainingUtterance]) -> list[Tensor]:
        return [
            self.model.log_mel(torch.from_numpy(_audio(utterance)).unsqueeze(0))[0]
            for utterance in utterances
        ]

    def logits(self, inputs: Sequence[Tensor], augment: torch.Generator | None = None) -> Tensor:
        if augment is not None:
            inputs = [_perturb_spectrum(mel_TM, augment) for mel_TM in inputs]

        # Masks are put on standardized spectra, because a mask of 0 is then the mean.
        standardized = [
            (mel_TM - self.model.feature_mean) / self.model.feature_std for mel_TM in inputs
        ]
        if augment is not None:
            standardized = [_mask_spectrum(mel_TM, augment) for mel_TM in standardized]

        frames_B = torch.tensor([len(mel_TM) for mel_TM in standardized])
        hidden_BTD, mask_BT = self.model.encode(
            pad_sequence(standardized, batch_first=True), frames_B
        )
        return self.model.head(self.model.dropout(masked_mean_and_std(hidden_BTD, mask_BT)))

    def save_preprocessing(self, folder: Path) -> None:
        """Write nothing: the model standardizes its spectra itself.

        It keeps the level of the voice, which is a cue for emotion.
        """


class FaceTeacher:
    """A classifier of the features in `face.npy`."""

    def __init__(self, config: FaceSequenceConfig, utterances: Sequence[TrainingUtterance]) -> None:
        self.model = FaceSequenceClassifier(config)
        frames_FD = torch.cat(self.prepare(utterances))
        self.model.set_statistics(frames_FD.mean(dim=0), frames_FD.std(dim=0))

    def prepare(self, utterances: Sequence[TrainingUtterance]) -> list[Tensor]:
        return [_features(utterance) for utterance in utterances]

    def logits(self, inputs: Sequence[Tensor], augment: torch.Generator | None = None) -> Tensor:
        features_BTD = pad_sequence(list(inputs), batch_first=True)
        mask_BT = pad_sequence([torch.ones(len(features)) for features in inputs], batch_first=True)

        # The offset is one for all frames of an utterance: another resting face. The noise differs
        # from frame to frame.
        if augment is not None:
            size = self.model.config.feature_size
            offset_B1D = _FEATURE_OFFSET * torch.randn(len(inputs), 1, size, generator=augment)
            noise_BTD = _FEATURE_NOISE * torch.randn(features_BTD.shape, generator=augment)
            features_BTD = features_BTD + self.model.feature_std * (offset_B1D + noise_BTD)

        return self.model(face_features=features_BTD, attention_mask=mask_BT).logits

    def save_preprocessing(self, folder: Path) -> None:
        """Write nothing: the model standardizes its features itself."""


class TextTeacher:
    """A small BERT over whole words."""

    def __init__(self, config: BertConfig, tokenizer: PreTrainedTokenizerFast) -> None:
        self.model = BertForSequenceClassification(config)
        self.tokenizer = tokenizer

    def prepare(self, utterances: Sequence[TrainingUtterance]) -> list[Tensor]:
        texts = [_transcript(utterance) for utterance in utterances]
        return [torch.tensor(ids) for ids in self.tokenizer(texts, truncation=True)["input_ids"]]

    def logits(self, inputs: Sequence[Tensor], augment: torch.Generator | None = None) -> Tensor:
        ids_BT = pad_sequence(
            list(inputs), batch_first=True, padding_value=self.tokenizer.pad_token_id
        )
        mask_BT = pad_sequence([torch.ones_like(ids) for ids in inputs], batch_first=True)

        # Special tokens have the lowest numbers, and are never replaced by the unknown word.
        if augment is not None:
            dropped_BT = torch.rand(ids_BT.shape, generator=augment) < _WORD_DROPOUT
            is_word_BT = ids_BT >= len(_SPECIAL_TOKENS)
            ids_BT = ids_BT.masked_fill(dropped_BT & is_word_BT, self.tokenizer.unk_token_id)

        return self.model(input_ids=ids_BT, attention_mask=mask_BT).logits

    def save_preprocessing(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def build_tokenizer(transcripts: Iterable[str], max_tokens: int = 128) -> PreTrainedTokenizerFast:
    """A tokenizer of lower-cased whole words, whose vocabulary are the words of `transcripts`."""
    splitter = pre_tokenizers.Whitespace()
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = {
        word
        for text in transcripts
        for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    }

    # Words are sorted, so that their numbers do not depend on the order of the transcripts.
    vocabulary = {
        word: number
        for number, word in enumerate([*_SPECIAL_TOKENS, *sorted(words - set(_SPECIAL_TOKENS))])
    }

    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106 (a token of text, not of access)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_tokens,
        pad_token="[PAD]",  # noqa: S106
        unk_token="[UNK]",  # noqa: S106
        cls_token="[CLS]",  # noqa: S106
        sep_token="[SEP]",  # noqa: S106
    )


def _perturb_spectrum(mel_TM: Tensor, generator: torch.Generator) -> Tensor:
    """Imitate another distance to the microphone, another room, vocal tract and tempo."""
    gain, room, tempo = (2.0 * torch.rand(3, generator=generator) - 1.0).tolist()
    shift = int(torch.randint(-_MAX_BAND_SHIFT, _MAX_BAND_SHIFT + 1, (1,), generator=generator))
    length = max(1, round(len(mel_TM) * (1.0 + _MAX_TEMPO_CHANGE * tempo)))

    # Spectra are natural logarithms of energy: a gain in decibels is added after conversion, and
    # the room's noise adds to the energy, so its logarithm is combined by logaddexp.
    mel_TM = mel_TM + gain * _MAX_GAIN_DB * 0.1 * torch.log(torch.tensor(10.0))
    mel_TM = torch.logaddexp(mel_TM, mel_TM.mean() - _MEAN_ROOM_BELOW + _ROOM_SPREAD * room)

    # The edge bands are repeated on both sides, so that a window of all bands can start up to
    # `_MAX_BAND_SHIFT` bands lower or higher. A shift of 0 gives the spectrum back.
    padded_TM = F.pad(mel_TM.unsqueeze(0), (_MAX_BAND_SHIFT, _MAX_BAND_SHIFT), mode="replicate")
    shifted_TM = padded_TM[..., _MAX_BAND_SHIFT + shift :][..., : mel_TM.shape[1]]
    return F.interpolate(shifted_TM.transpose(1, 2), size=length, mode="linear").transpose(1, 2)[0]


def _mask_spectrum(mel_TM: Tensor, generator: torch.Generator) -> Tensor:
    """Mask one span of bands and one span of frames (SpecAugment, Park et al. 2019).

    Masked values become 0, which is the mean of a standardized spectrum.
    """
    num_frames, num_bands = mel_TM.shape
    band, bands, frame, frames = torch.rand(4, generator=generator).tolist()
    first_band, first_frame = int(band * num_bands), int(frame * num_frames)

    masked_TM = mel_TM.clone()
    masked_TM[:, first_band : first_band + int(bands * _MAX_MASKED_BANDS)] = 0.0
    masked_TM[first_frame : first_frame + int(frames * _MAX_MASKED_SHARE * num_frames)] = 0.0
    return masked_TM


def _audio(utterance: TrainingUtterance) -> NDArray[np.float32]:
    if utterance.audio is None:
        raise ValueError(
            f"{utterance.speaker}: got an utterance without audio, expected audio for an audio "
            "teacher"
        )
    return utterance.audio


def _features(utterance: TrainingUtterance) -> Tensor:
    if utterance.face_features is None:
        raise ValueError(
            f"{utterance.speaker}: got an utterance without face features, expected some for a "
            "face teacher"
        )
    return torch.from_numpy(utterance.face_features)


def _transcript(utterance: TrainingUtterance) -> str:
    if utterance.transcript is None:
        raise ValueError(
            f"{utterance.speaker}: got an utterance without a transcript, expected one for a text "
            "teacher"
        )
    return utterance.transcript
