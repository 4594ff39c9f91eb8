"""Speech emotion from the waveform: any transformers audio classifier, and the project's own two.

Models with layer-norm feature extractors (wav2vec 2.0 large, HuBERT large, WavLM large) mask
padding. Two kinds cannot: group norm averages over the padding too, and in data2vec stacked
positional convolutions carry it into the utterance. The first kind is known by its configuration.
The second kind, and whatever else leaks, is found when the model is loaded: a short recording is
run alone, then beside a longer one. Such models get batches of equal length.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForAudioClassification

from actors.inference.checkpoints import model_type
from actors.inference.loading import load_model
from actors.inference.outcomes import Missing, Outcome, class_probabilities
from actors.inference.probes import probe_waveforms
from actors.inference.runtime import Runtime, Settled, settle
from actors.inference.waveforms import RawInputs, WaveformInputs, cast_floats, checkpoint_inputs
from actors.inference.windows import windowed_rows
from actors.labeling.labelers.config import LabelerConfig
from actors.labeling.labelers.emotion_mapping import EmotionMapping, emotions
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform
from trainers.models.classifiers.mel import MelClassifierConfig
from trainers.models.classifiers.odyssey import OdysseyConfig
from trainers.models.encoders.registry import register_models

log = logging.getLogger(__name__)

# These standardize the waveform themselves, in float32, and need no preprocessor_config.json.
OWN_MODEL_TYPES = (MelClassifierConfig.model_type, OdysseyConfig.model_type)
PADDING_TOLERANCE = 1e-4  # float32 rounding moves a probability by 1e-6, a leak by 1e-3 and more


class AudioLabeler:
    """Waveforms (16 kHz mono float32) to distributions over the seven emotions."""

    def __init__(self, config: LabelerConfig, *, window_seconds: float) -> None:
        self._config = config
        self._window_samples = round(window_seconds * SAMPLE_RATE_HZ)

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the checkpoint in `folder`, and settle its precision and its batches.

        How much padding and bfloat16 change is measured for this.
        """
        register_models()
        self._runtime = runtime
        self._is_own = model_type(folder) in OWN_MODEL_TYPES

        self._inputs: WaveformInputs = (
            RawInputs(normalize=False) if self._is_own else checkpoint_inputs(folder)
        )
        self._max_samples = min(
            self._window_samples, self._inputs.max_samples or self._window_samples
        )

        model = self._load(folder, torch.float32)
        self._mapping = EmotionMapping.of(
            model.config.id2label,
            drop_labels=self._config.drop_labels,
            label_names=self._config.label_names,
            checkpoint=self._config.checkpoint,
        )

        self._equal_lengths = runtime.audio_samples > 0 and self._is_disturbed_by_padding(model)

        settled = settle(
            "audio", runtime, model, lambda dtype: self._load(folder, dtype), self._probe
        )
        self._model = settled.model
        return settled

    @property
    def known_emotions(self) -> tuple[str, ...]:
        """The emotions that the checkpoint has a class for."""
        return self._mapping.known_emotions

    def label(self, waveforms: Sequence[Waveform]) -> list[Outcome]:
        """One outcome for each waveform, in order, which the other waveforms do not affect."""
        rows = windowed_rows(
            waveforms,
            lambda batch: self._forward(self._model, batch),
            max_samples=self._max_samples,
            budget=self._runtime.audio_samples,
            equal_lengths=self._equal_lengths,
        )
        return [row if isinstance(row, Missing) else emotions(self._mapping, row) for row in rows]

    def _load(self, folder: Path, dtype: torch.dtype) -> Any:
        return load_model(
            AutoModelForAudioClassification, folder, dtype=dtype, device=self._runtime.device
        )

    @torch.inference_mode()
    def _forward(self, model: Any, waveforms: Sequence[Waveform]) -> Tensor:
        """Class probabilities [B, C] of one batch."""
        inputs = self._inputs(waveforms, self._runtime.device)
        if not self._is_own:
            inputs = cast_floats(inputs, model.dtype)
        return class_probabilities(model(**inputs).logits, model.config)

    def _probe(self, model: Any) -> NDArray[np.float64]:
        rows = [self._forward(model, [waveform]).cpu().numpy() for waveform in probe_waveforms()]
        return np.concatenate(rows).astype(np.float64)

    def _is_disturbed_by_padding(self, model: Any) -> bool:
        if getattr(model.config, "feat_extract_norm", None) == "group":
            return True

        short, long = probe_waveforms()[:2]
        difference = (
            (self._forward(model, [short]) - self._forward(model, [short, long])[:1])
            .abs()
            .max()
            .item()
        )

        if difference > PADDING_TOLERANCE:
            log.info(
                "audio: padding moves a probability by %.5f; batches will be of equal length",
                difference,
            )

        return difference > PADDING_TOLERANCE
