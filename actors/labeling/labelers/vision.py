"""Emotion from the face: a classifier over face crops, or over precomputed features.

The logits of the frames are averaged over the utterance and then turned into probabilities, as
EmoCeleb does: with averaged probabilities one confident frame would count less than the many
undecided ones. The checkpoint's model type says which of the two classifiers it is.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForImageClassification

from actors.inference.batching import plan_batches
from actors.inference.checkpoints import model_type
from actors.inference.frames import FrameInputs, mean_rows, probe_frames
from actors.inference.loading import load_model
from actors.inference.outcomes import Missing, Outcome, class_probabilities, run_batches
from actors.inference.runtime import Runtime, Settled, settle
from actors.inference.waveforms import to_device
from actors.labeling.labelers.config import LabelerConfig
from actors.labeling.labelers.emotion_mapping import EmotionMapping, emotions
from actors.reading.utterance import Utterance
from shards.media.padding import pad
from trainers.models.classifiers.face_sequence import FaceSequenceClassifier, FaceSequenceConfig

FEATURE_FRAMES_PER_BATCH = 8_192


class VisionLabeler:
    """Utterances with a face to distributions over the seven emotions."""

    def __init__(self, config: LabelerConfig) -> None:
        self._config = config

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the checkpoint in `folder`.

        A FaceSequenceClassifier looks at `face.npy`, any other model at crops.
        """
        over_features = model_type(folder) == FaceSequenceConfig.model_type
        self._classifier: _FeatureClassifier | _CropClassifier = (
            _FeatureClassifier() if over_features else _CropClassifier()
        )

        settled = self._classifier.setup(folder, runtime)
        self._class_config = settled.model.config

        self._mapping = EmotionMapping.of(
            self._class_config.id2label,
            drop_labels=self._config.drop_labels,
            label_names=self._config.label_names,
            checkpoint=self._config.checkpoint,
        )
        return settled

    @property
    def looks_at_crops(self) -> bool:
        """Whether the labeler sees nothing unless faces are cut from video."""
        return isinstance(self._classifier, _CropClassifier)

    def input_of(self, utterance: Utterance) -> Any:
        """The utterance's crops or its features, which this labeler looks at; None where none."""
        return self._classifier.input_of(utterance)

    @property
    def known_emotions(self) -> tuple[str, ...]:
        """The emotions that the checkpoint has a class for."""
        return self._mapping.known_emotions

    def label(self, faces: Sequence[Any]) -> list[Outcome]:
        """One outcome for each utterance's `input_of`, in order."""
        return [
            row if isinstance(row, Missing) else emotions(self._mapping, self._probabilities(row))
            for row in self._classifier.logits(faces)
        ]

    def _probabilities(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        return (
            class_probabilities(torch.from_numpy(logits), self._class_config)
            .numpy()
            .astype(np.float64)
        )


class _CropClassifier:
    """Logits of face crops, averaged over an utterance."""

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        self._runtime = runtime
        self._inputs = FrameInputs(folder)
        model = self._load(folder, torch.float32)
        settled = settle(
            "vision", runtime, model, lambda dtype: self._load(folder, dtype), self._probe
        )
        self._model = settled.model
        return settled

    def input_of(self, utterance: Utterance) -> Any:
        return utterance.faces

    def logits(self, crops: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64] | Missing]:
        return mean_rows(
            crops,
            lambda frames: self._forward(self._model, frames),
            budget=self._runtime.face_frames,
        )

    def _load(self, folder: Path, dtype: torch.dtype) -> Any:
        return load_model(
            AutoModelForImageClassification, folder, dtype=dtype, device=self._runtime.device
        )

    @torch.inference_mode()
    def _forward(self, model: Any, frames: NDArray[np.uint8]) -> Tensor:
        pixels = self._inputs(frames, self._runtime.device)
        return model(pixel_values=pixels.to(model.dtype)).logits.float()

    def _probe(self, model: Any) -> NDArray[np.float64]:
        logits = self._forward(model, probe_frames())
        return class_probabilities(logits, model.config).cpu().numpy().astype(np.float64)


class _FeatureClassifier:
    """Logits of a `face.npy` sequence; padding is masked inside the model."""

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load in float32 always: the model is a thousandth of the others' work."""
        self._device = runtime.device
        self._model = load_model(
            FaceSequenceClassifier, folder, dtype=torch.float32, device=runtime.device
        )
        return Settled(self._model, torch.float32, None)

    def input_of(self, utterance: Utterance) -> Any:
        return utterance.face_features

    def logits(
        self, sequences: Sequence[NDArray[np.float32]]
    ) -> list[NDArray[np.float64] | Missing]:
        outcomes: list[NDArray[np.float64] | Missing] = [
            self._problem(features) for features in sequences
        ]
        usable = [index for index, features in enumerate(sequences) if self._fits(features)]

        batches = plan_batches(
            [len(sequences[index]) for index in usable], budget=FEATURE_FRAMES_PER_BATCH
        )
        rows = run_batches(
            batches, lambda batch: self._forward([sequences[usable[i]] for i in batch])
        )

        for index, row in rows.items():
            outcomes[usable[index]] = row.numpy().astype(np.float64)

        return outcomes

    def _fits(self, features: NDArray[np.float32]) -> bool:
        return len(features) > 0 and features.shape[1] == self._model.config.feature_size

    def _problem(self, features: NDArray[np.float32]) -> Missing:
        return Missing(
            f"face_features_shape: got {features.shape[0]} frames of {features.shape[1]} values, "
            f"expected at least 1 of {self._model.config.feature_size}"
        )

    @torch.inference_mode()
    def _forward(self, sequences: Sequence[NDArray[np.float32]]) -> Tensor:
        padded, lengths = pad(sequences)
        mask = (np.arange(padded.shape[1]) < lengths[:, np.newaxis]).astype(np.float32)
        output = self._model(
            to_device(torch.from_numpy(padded), self._device),
            attention_mask=to_device(torch.from_numpy(mask), self._device),
        )
        return output.logits
