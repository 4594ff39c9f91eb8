"""Extra columns for multimodal adaptive pre-training (multimodal-adaptive-pretraining).

They are targets that another model learns to predict, computed while the utterance is decoded
anyway. Each is made only when the panel asks for it.

`acoustics` [25] has a file of its own. `sentiment` [3]: negative, neutral, positive.
`face_embedding` [D]: pooled features of an image backbone, or precomputed features, averaged over
frames. `speaker_vector` [D]: last layer of an audio backbone, averaged over time.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from actors.inference.checkpoints import CheckpointConfig
from actors.inference.frames import FrameInputs, mean_rows, probe_frames
from actors.inference.loading import load_model
from actors.inference.outcomes import Missing, Outcome
from actors.inference.probes import probe_waveforms
from actors.inference.runtime import Probe, Runtime, Settled, settle
from actors.inference.waveforms import cast_floats, checkpoint_inputs
from actors.inference.windows import windowed_rows
from actors.labeling.labelers.text import TextClassifier
from shards.config import ConfigError
from shards.media.sound_format import SAMPLE_RATE_HZ, Waveform

SENTIMENTS = ("negative", "neutral", "positive")
_SENTIMENT_NAMES = {"neg": "negative", "neu": "neutral", "pos": "positive"}


class Sentiment:
    """Probabilities of negative, neutral and positive, in this order."""

    def __init__(self, config: CheckpointConfig) -> None:
        self._checkpoint = config.checkpoint
        self._classifier = TextClassifier("sentiment")

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the checkpoint in `folder`.

        Raises ConfigError unless its classes are the three sentiments.
        """
        settled = self._classifier.setup(folder, runtime)
        self._order = sentiment_order(self._classifier.id2label, self._checkpoint)
        return settled

    def compute(self, texts: Sequence[str]) -> list[Outcome]:
        """[3] for each text; a blank one is Missing."""
        rows = self._classifier.probabilities(texts)
        return [row if isinstance(row, Missing) else _finite(row[self._order]) for row in rows]


class FaceEmbedding:
    """An image backbone's pooled features, averaged over an utterance's face crops."""

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the backbone in `folder`."""
        self._runtime = runtime
        self._inputs = FrameInputs(folder)
        settled = _settle_backbone("face_embedding", _image_backbone, folder, runtime, self._probe)
        self._model = settled.model
        return settled

    def compute(self, crops: Sequence[NDArray[np.uint8]]) -> list[Outcome]:
        """[D] for each utterance's crops [F, S, S, 3]."""
        rows = mean_rows(
            crops, lambda batch: self._embed(self._model, batch), budget=self._runtime.face_frames
        )
        return [row if isinstance(row, Missing) else _finite(row) for row in rows]

    @torch.inference_mode()
    def _embed(self, model: Any, frames: NDArray[np.uint8]) -> Tensor:
        output = model(pixel_values=self._inputs(frames, self._runtime.device).to(model.dtype))
        pooled = getattr(output, "pooler_output", None)
        # Backbones without a pooler give patches [F, P, D] or a feature map [F, D, h, w].
        if pooled is None:
            hidden = output.last_hidden_state
            pooled = hidden.mean(dim=1) if hidden.ndim == 3 else hidden.mean(dim=(2, 3))
        return pooled.float().flatten(1)

    def _probe(self, model: Any) -> NDArray[np.float64]:
        return _unit(self._embed(model, probe_frames()))


class FaceFeatures:
    """An utterance's precomputed face features (`face.npy`), averaged over frames."""

    def __init__(self, width: int) -> None:
        self._width = width

    def compute(self, sequences: Sequence[NDArray[np.float32]]) -> list[Outcome]:
        """[D] for each utterance's features [F, D]; those of another width are Missing."""
        return [
            _finite(features.mean(axis=0, dtype=np.float64))
            if len(features) and features.shape[1] == self._width
            else Missing(
                f"face_features_shape: got {features.shape[0]} frames of {features.shape[1]} "
                f"values, expected at least 1 of {self._width}"
            )
            for features in sequences
        ]


class SpeakerVector:
    """An audio backbone's last layer, averaged over time."""

    def __init__(self, *, window_seconds: float) -> None:
        self._window_samples = round(window_seconds * SAMPLE_RATE_HZ)

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the backbone in `folder`."""
        self._runtime = runtime
        self._inputs = checkpoint_inputs(folder)
        settled = _settle_backbone("speaker_vector", _audio_backbone, folder, runtime, self._probe)
        self._model = settled.model
        return settled

    def compute(self, waveforms: Sequence[Waveform]) -> list[Outcome]:
        """[D] for each waveform.

        All waveforms of a batch have one length, as a mean over time must not see padding.
        """
        rows = windowed_rows(
            waveforms,
            lambda batch: self._embed(self._model, batch),
            max_samples=min(self._window_samples, self._inputs.max_samples or self._window_samples),
            budget=self._runtime.audio_samples,
            equal_lengths=True,
        )
        return [row if isinstance(row, Missing) else _finite(row) for row in rows]

    @torch.inference_mode()
    def _embed(self, model: Any, waveforms: Sequence[Waveform]) -> Tensor:
        inputs = cast_floats(self._inputs(waveforms, self._runtime.device), model.dtype)
        return model(**inputs).last_hidden_state.float().mean(dim=1)

    def _probe(self, model: Any) -> NDArray[np.float64]:
        return np.concatenate(
            [_unit(self._embed(model, [waveform])) for waveform in probe_waveforms()]
        )


def sentiment_order(id2label: Mapping[int, str], checkpoint: str) -> list[int]:
    """Class indices of negative, neutral, positive.

    Raises ConfigError when the classes are not exactly these.
    """
    names = {index: label.strip().casefold() for index, label in id2label.items()}
    found = {_SENTIMENT_NAMES.get(name, name): index for index, name in names.items()}
    if set(found) != set(SENTIMENTS) or len(id2label) != len(SENTIMENTS):
        raise ConfigError(
            f"objectives.sentiment {checkpoint}: got the classes {', '.join(id2label.values())}, "
            f"expected {', '.join(SENTIMENTS)} (name them so in the checkpoint's id2label)"
        )
    return [found[name] for name in SENTIMENTS]


def _settle_backbone(
    name: str,
    load: Callable[[Path, torch.dtype, torch.device], Any],
    folder: Path,
    runtime: Runtime,
    probe: Probe,
) -> Settled:
    model = load(folder, torch.float32, runtime.device)
    return settle(name, runtime, model, lambda dtype: load(folder, dtype, runtime.device), probe)


def _audio_backbone(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    return load_model(AutoModel, folder, dtype=dtype, device=device)


def _image_backbone(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    """The backbone in `folder`; a classifier is loaded whole, and its last layer is left out.

    AutoModel would want a pooler, which most classifiers lack.
    """
    architectures = AutoConfig.from_pretrained(folder, trust_remote_code=False).architectures or ()
    if any(name.endswith("ForImageClassification") for name in architectures):
        return load_model(
            AutoModelForImageClassification, folder, dtype=dtype, device=device
        ).base_model
    return load_model(AutoModel, folder, dtype=dtype, device=device)


def _unit(vectors: Tensor) -> NDArray[np.float64]:
    """Vectors at length 1, so that embeddings drift on the same scale as probabilities."""
    return torch.nn.functional.normalize(vectors.double(), dim=-1).cpu().numpy()


def _finite(values: NDArray[np.float64]) -> Outcome:
    if not np.isfinite(values).all():
        return Missing("non_finite_prediction: the model answered with NaN or infinity")
    return values.astype(np.float32)
