"""Transcripts by speech recognition (Whisper family) for utterances that have none.

Decoding is greedy: a beam costs five times as much, and sampling would give another transcript on
every run. Recordings beyond the model's 30 s are cut into equal windows, and their texts are
joined. Whisper's own long-form decoding was left out: it feeds each window's words to the next and
falls back to sampling, and so depends on more than the sound.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSpeechSeq2Seq, AutoProcessor

from actors.inference.checkpoints import model_type
from actors.inference.loading import load_model
from actors.inference.outcomes import Missing, run_batches
from actors.inference.probes import probe_waveforms
from actors.inference.runtime import Runtime, Settled, settle
from actors.inference.waveforms import cast_floats, to_device
from actors.inference.windows import MIN_SAMPLES, cut_windows
from actors.labeling.labelers.config import SpeechRecognitionConfig
from shards.config import ConfigError
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform

WHISPER = "whisper"  # the model type, also of distilled and fine-tuned models


class SpeechRecognizer:
    """Waveforms (16 kHz mono float32) to transcripts."""

    def __init__(self, config: SpeechRecognitionConfig) -> None:
        self._config = config

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the checkpoint in `folder`.

        Raises ConfigError when it is no Whisper, or does not know the configured language.
        """
        self._runtime = runtime
        self._processor = _load_processor(folder)
        self._window_samples = int(self._processor.feature_extractor.n_samples)
        self._batch_size = max(1, runtime.audio_samples // self._window_samples)

        model = self._load(folder, torch.float32)
        self._options = self._generation_options(model.generation_config)

        settled = settle(
            "speech_recognition",
            runtime,
            model,
            lambda dtype: self._load(folder, dtype),
            self._probe,
        )
        self._model = settled.model
        return settled

    def transcribe(self, waveforms: Sequence[Waveform]) -> list[str | Missing]:
        """A transcript for each waveform, in order."""
        windows: list[Waveform] = []
        spans: list[range] = []

        for waveform in waveforms:
            first = len(windows)
            if len(waveform) >= MIN_SAMPLES:
                windows += [
                    waveform[part] for part in cut_windows(len(waveform), self._window_samples)
                ]
            spans.append(range(first, len(windows)))

        texts = self._transcribe_windows(windows)
        too_short = Missing(
            f"audio_too_short: under {MIN_SAMPLES} samples (0.1 s), nothing to transcribe"
        )

        return [
            " ".join(filter(None, (texts[index] for index in span))) if span else too_short
            for span in spans
        ]

    def _transcribe_windows(self, windows: Sequence[Waveform]) -> list[str]:
        size = self._batch_size
        batches = [
            range(start, min(start + size, len(windows))) for start in range(0, len(windows), size)
        ]

        rows = run_batches(
            batches, lambda batch: self._generate([windows[index] for index in batch])
        )

        decode = self._processor.tokenizer.decode
        return [
            decode(rows[index], skip_special_tokens=True).strip() for index in range(len(windows))
        ]

    def _load(self, folder: Path, dtype: torch.dtype) -> Any:
        return load_model(
            AutoModelForSpeechSeq2Seq, folder, dtype=dtype, device=self._runtime.device
        )

    def _features(self, model: Any, waveforms: Sequence[Waveform]) -> dict[str, Tensor]:
        device = self._runtime.device
        batch = self._processor.feature_extractor(
            list(waveforms),
            sampling_rate=SAMPLE_RATE_HZ,
            return_attention_mask=True,
            return_tensors="pt",
            device=device.type,
        )

        return cast_floats(
            {name: to_device(values, device) for name, values in batch.items()}, model.dtype
        )

    @torch.inference_mode()
    def _generate(self, waveforms: Sequence[Waveform]) -> Tensor:
        """Token ids [B, N] of windows that fit the model, padded behind the end of each text."""
        return self._model.generate(**self._features(self._model, waveforms), **self._options)

    def _generation_options(self, defaults: Any) -> dict[str, Any]:
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "return_timestamps": False}

        languages = (
            getattr(defaults, "lang_to_id", None)
            if getattr(defaults, "is_multilingual", False)
            else None
        )

        if languages is None:
            if self._config.language not in (None, "en"):
                raise ConfigError(
                    f"language: got {self._config.language!r}, but {self._config.checkpoint} knows "
                    "English only"
                )
            return options

        if self._config.language is not None and f"<|{self._config.language}|>" not in languages:
            known = ", ".join(sorted(name.strip("<|>") for name in languages))
            raise ConfigError(
                f"language: got {self._config.language!r}, {self._config.checkpoint} knows {known}"
            )

        return {**options, "task": "transcribe", "language": self._config.language}

    @torch.inference_mode()
    def _probe(self, model: Any) -> NDArray[np.float64]:
        """Probabilities of each fixed sound's first token."""
        features = self._features(model, probe_waveforms())["input_features"]
        start = torch.full(
            (len(features), 1), model.config.decoder_start_token_id, device=features.device
        )
        logits = model(input_features=features, decoder_input_ids=start).logits[:, -1]
        return torch.softmax(logits.float(), dim=-1).cpu().numpy().astype(np.float64)


def _load_processor(folder: Path) -> Any:
    # Why first: on other checkpoints AutoProcessor fails in as many ways as there are families.
    if (found := model_type(folder)) != WHISPER:
        raise ConfigError(
            f"checkpoint {folder}: got a {found} model, expected a {WHISPER}-family checkpoint"
        )
    try:
        return AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"checkpoint {folder}: no usable processor: {error}") from error
