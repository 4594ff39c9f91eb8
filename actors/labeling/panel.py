"""The panel: every labeler, on every utterance of a window, on one device.

One worker hosts all labelers and does the same work as every other worker on different shards, so
nothing needs balancing between models. It is a plain class: the Ray actor, the tests and the
benchmarks use the same one. A failure on one utterance in one modality leaves that modality empty,
with the reason; a failure of a model is raised.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from actors.inference.checkpoints import locate, weight_digest
from actors.inference.outcomes import Missing
from actors.inference.runtime import Runtime, Settled, prepare_torch
from actors.labeling.config import PanelConfig
from actors.labeling.identity import PanelIdentity, panel_identity
from actors.labeling.labelers.acoustics import Acoustics
from actors.labeling.labelers.audio import AudioLabeler
from actors.labeling.labelers.config import primary_language
from actors.labeling.labelers.objectives import (
    FaceEmbedding,
    FaceFeatures,
    Sentiment,
    SpeakerVector,
)
from actors.labeling.labelers.speech_recognition import SpeechRecognizer
from actors.labeling.labelers.text import TextLabeler
from actors.labeling.labelers.vision import VisionLabeler
from actors.reading.utterance import Utterance
from actors.work.errors import UnusableModelsError
from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.emotions import EMOTIONS
from shards.samples.keys import printable
from shards.tables.predictions import MODALITIES, Prediction

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draft:
    """An utterance and what the labelers have said about it so far."""

    utterance: Utterance
    transcript: str | None
    predictions: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[str, None] = field(default_factory=dict)  # reasons, in order, each once


@dataclass(frozen=True, slots=True)
class _Stage:
    """One labeler: its input from an utterance (None: nothing there), and its work on inputs."""

    name: str
    input_of: Callable[[_Draft], Any]
    run: Callable[[Sequence[Any]], Sequence[Any]]


class Panel:
    """All labelers of a configuration. Cheap to make; `setup` loads the models."""

    def __init__(self, config: PanelConfig, identity: PanelIdentity | None = None) -> None:
        self._config = config
        self._identity = identity
        self._stages: list[_Stage] = []
        self._labelers: dict[str, dict[str, str]] = {}
        self._threads_later: int | None = None  # set while loading is put off
        self.looks_at_crops = False  # whether a labeler needs faces cut from video
        self.seconds: dict[str, float] = {}  # spent in each labeler so far

    @property
    def resolved_config(self) -> dict[str, Any]:
        """The configuration as plain values."""
        return to_mapping(self._config)

    @property
    def labelers(self) -> dict[str, dict[str, str]]:
        """For each model: its checkpoint, its weights' digest, and its precision."""
        return self._labelers

    def setup(self, num_threads: int) -> None:
        """Load every model, computing with `num_threads` on a CPU.

        Raises ConfigError when a checkpoint cannot be used, or differs from the one the job was
        started with.
        """
        prepare_torch(num_threads)
        transformers_logging.disable_progress_bar()

        identity = panel_identity(self._config)
        if self._identity is not None and identity.digest != self._identity.digest:
            raise ConfigError(
                "the checkpoints on this machine are not those the job was started with; every "
                f"node must see the same folders (here: {dict(identity.labelers)}; the job's: "
                f"{dict(self._identity.labelers)})"
            )

        self._labelers = {name: dict(labeler) for name, labeler in identity.labelers.items()}
        self._stages = self._build(
            Runtime.of(self._config.precision, self._config.max_drift, self._config.batching)
        )
        self.seconds = dict.fromkeys((stage.name for stage in self._stages), 0.0)

    def setup_later(self, num_threads: int, labelers: Mapping[str, Mapping[str, str]]) -> None:
        """Call `setup` when the first utterance is to be labeled, if there will be one.

        `labelers` is what the tables say of the models until then: those that made the results
        which are taken over.
        """
        self._threads_later = num_threads
        self._labelers = {name: dict(labeler) for name, labeler in labelers.items()}

    def label(self, utterances: Sequence[Utterance]) -> list[Prediction]:
        """One prediction for each utterance, in order; `shard` is left empty for the caller.

        Utterances with an `error` pass through. The same utterances give the same bits. Raises
        UnusableModelsError when `setup` was put off until now and fails.
        """
        drafts = [_Draft(utterance, utterance.transcript) for utterance in utterances]
        usable = [draft for draft in drafts if draft.utterance.error is None]
        if usable:
            self._catch_up()
        for stage in self._stages:
            self._run(stage, usable)
        return [_prediction(draft) for draft in drafts]

    def _catch_up(self) -> None:
        if self._threads_later is None:
            return
        try:
            self.setup(self._threads_later)
        except ConfigError as error:
            raise UnusableModelsError(str(error)) from error
        self._threads_later = None

    def _run(self, stage: _Stage, drafts: Sequence[_Draft]) -> None:
        started = time.perf_counter()
        inputs = [
            (draft, value) for draft in drafts if (value := stage.input_of(draft)) is not None
        ]

        outcomes = stage.run([value for _, value in inputs])
        for (draft, _), outcome in zip(inputs, outcomes, strict=True):
            if isinstance(outcome, Missing):
                draft.failures[outcome.reason] = None
            elif isinstance(outcome, str):
                draft.transcript = outcome
            else:
                draft.predictions[stage.name] = outcome

        self.seconds[stage.name] += time.perf_counter() - started

    def _build(self, runtime: Runtime) -> list[_Stage]:
        """Load the models; speech recognition comes first, as others read its transcripts."""
        config, stages = self._config, []

        if config.speech_recognition is not None:
            recognizer = SpeechRecognizer(config.speech_recognition)
            self._load("speech_recognition", recognizer.setup, runtime)
            stages.append(_Stage("speech_recognition", _untranscribed_audio, recognizer.transcribe))

        if config.audio is not None:
            audio = AudioLabeler(config.audio, window_seconds=config.window_seconds)
            self._load("audio", audio.setup, runtime)
            self._note_emotions("audio", audio.known_emotions)
            stages.append(_Stage("audio", _audio, audio.label))

        if config.vision is not None:
            vision = VisionLabeler(config.vision)
            self._load("vision", vision.setup, runtime)
            self._note_emotions("vision", vision.known_emotions)
            self.looks_at_crops |= vision.looks_at_crops
            stages.append(
                _Stage("vision", lambda draft: vision.input_of(draft.utterance), vision.label)
            )

        if config.text is not None:
            text = TextLabeler(config.text)
            self._load("text", text.setup, runtime)
            self._note_emotions("text", text.known_emotions)
            stages.append(_Stage("text", _words_in(config.text.languages), text.label))

        return stages + self._build_objectives(runtime)

    def _build_objectives(self, runtime: Runtime) -> list[_Stage]:
        objectives, stages = self._config.objectives, []

        if objectives.acoustics is not None:
            acoustics = Acoustics(objectives.acoustics)
            acoustics.setup()
            # A table must say what its numbers are: no checkpoint's name does.
            self._labelers["acoustics"] = {"values": ",".join(acoustics.names)}
            stages.append(_Stage("acoustics", _audio, acoustics.compute))

        if objectives.sentiment is not None:
            sentiment = Sentiment(objectives.sentiment)
            self._load("sentiment", sentiment.setup, runtime)
            stages.append(_Stage("sentiment", _transcript, sentiment.compute))

        if objectives.face_embedding is not None:
            embedding = FaceEmbedding()
            self._load("face_embedding", embedding.setup, runtime)
            self.looks_at_crops = True
            stages.append(
                _Stage("face_embedding", lambda draft: draft.utterance.faces, embedding.compute)
            )

        if objectives.face_features is not None:
            features = FaceFeatures(objectives.face_features)
            stages.append(_Stage("face_embedding", _face_features, features.compute))

        if objectives.speaker_vector is not None:
            speaker = SpeakerVector(window_seconds=self._config.window_seconds)
            self._load("speaker_vector", speaker.setup, runtime)
            stages.append(_Stage("speaker_vector", _audio, speaker.compute))

        return stages

    def _note_emotions(self, name: str, known: Sequence[str]) -> None:
        """Have the tables say which emotions a labeler knows: its zeros mean nothing."""
        self._labelers[name]["emotions"] = ",".join(known)
        if lacking := [emotion for emotion in EMOTIONS if emotion not in known]:
            log.warning("the %s labeler lacks %s", name, ", ".join(lacking))

    def _load(self, name: str, setup: Callable[[Any, Runtime], Settled], runtime: Runtime) -> None:
        checkpoint = self._config.checkpoints()[name]
        folder = locate(checkpoint)
        labeler = self._labelers[name]
        if "weights" not in labeler:
            labeler["weights"] = weight_digest(folder)

        settled = setup(folder, runtime)
        labeler["precision"] = settled.precision

        drift = (
            "" if settled.drift is None else f" (bfloat16 moves the probe by {settled.drift:.5f})"
        )
        log.info(
            "%s: %s in %s on %s%s",
            name,
            checkpoint.checkpoint,
            settled.precision,
            runtime.device,
            drift,
        )


def _audio(draft: _Draft) -> NDArray[np.float32] | None:
    return draft.utterance.audio


def _face_features(draft: _Draft) -> NDArray[np.float32] | None:
    return draft.utterance.face_features


def _untranscribed_audio(draft: _Draft) -> NDArray[np.float32] | None:
    return draft.utterance.audio if draft.transcript is None else None


def _transcript(draft: _Draft) -> str | None:
    return draft.transcript


def _words_in(languages: Sequence[str]) -> Callable[[_Draft], str | None]:
    """The transcripts that a text labeler is asked about; all of them if `languages` is empty.

    An utterance whose language nobody states is taken for one of a language that it knows.
    """

    def words(draft: _Draft) -> str | None:
        spoken = draft.utterance.language
        if draft.transcript is None or not languages or spoken is None:
            return draft.transcript
        if primary_language(spoken) in languages:
            return draft.transcript

        draft.failures[
            f"unknown_language: the words are in {printable(spoken, 20)!r}, the text labeler knows "
            f"{', '.join(languages)}"
        ] = None
        return None

    return words


def _prediction(draft: _Draft) -> Prediction:
    utterance = draft.utterance
    labels: Mapping[str, NDArray[np.float32]] = draft.predictions

    return Prediction(
        key=utterance.key,
        shard="",
        offset=utterance.offset,
        size=utterance.size,
        speaker=utterance.speaker,
        duration_seconds=utterance.duration_seconds,
        audio=labels.get("audio"),
        vision=labels.get("vision"),
        text=labels.get("text"),
        transcript=draft.transcript,
        emotion=utterance.emotion,
        metadata=utterance.metadata,
        objectives={name: values for name, values in labels.items() if name not in MODALITIES},
        error=_error(draft),
    )


def _error(draft: _Draft) -> str | None:
    """The reason why a prediction, or one of its modalities, is missing; None where none is."""
    utterance = draft.utterance
    if utterance.error is not None:
        return utterance.error
    if draft.failures:
        return "; ".join(draft.failures)

    if not draft.predictions:
        return (
            utterance.remark
            or "nothing_to_label: holds nothing that a labeler of this panel looks at"
        )
    return None
