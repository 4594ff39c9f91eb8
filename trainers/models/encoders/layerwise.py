"""One call for every encoder: it returns frames, and has a seam before each transformer layer.

An adapter defines what is special to a family; what all families share is here.

Shapes: N utterances, T frames, X extra tokens, D width.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shards.config import ConfigError
from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import EncoderAdapter, SpeechAdapter
from trainers.models.encoders.augmenting import Augmentation
from trainers.models.encoders.data2vec.adapter import OwnData2VecAdapter
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.seams import BeforeLayer, LayerInput
from trainers.models.encoders.sequence import SequenceEncoderConfig
from trainers.models.encoders.small import SmallAdapter
from trainers.models.encoders.speech.conformer import ConformerAdapter, Wav2Vec2BertAdapter
from trainers.models.encoders.speech.squeezed import SqueezedAdapter
from trainers.models.encoders.speech.waveform import Data2VecAdapter, WaveformAdapter
from trainers.models.encoders.speech.whisper import WhisperAdapter
from trainers.models.encoders.statistics import StatisticsAdapter, StatisticsEncoderConfig
from trainers.models.encoders.video import VideoAdapter
from trainers.models.parts.masking import SpecAugment

# By the model type of the configuration; called with the model and whether its waveforms are
# normalized.
ADAPTERS: Mapping[str, Callable[[Any, bool], EncoderAdapter]] = {
    SequenceEncoderConfig.model_type: lambda model, _: SmallAdapter(model),
    StatisticsEncoderConfig.model_type: lambda model, _: StatisticsAdapter(model),
    "hubert": lambda model, normalize: WaveformAdapter(model, normalize=normalize),
    "wav2vec2": lambda model, normalize: WaveformAdapter(model, normalize=normalize),
    "wavlm": lambda model, normalize: WaveformAdapter(model, normalize=normalize),
    "unispeech-sat": lambda model, normalize: WaveformAdapter(model, normalize=normalize),
    "data2vec-audio": lambda model, normalize: Data2VecAdapter(model, normalize=normalize),
    Data2VecConfig.model_type: lambda model, normalize: OwnData2VecAdapter(
        model, normalize=normalize
    ),
    "wav2vec2-conformer": lambda model, normalize: ConformerAdapter(model, normalize=normalize),
    "sew": lambda model, normalize: SqueezedAdapter(model, normalize=normalize),
    "wav2vec2-bert": lambda model, _: Wav2Vec2BertAdapter(model),
    "whisper": lambda model, _: WhisperAdapter(model),
    "videomae": lambda model, _: VideoAdapter(model),
}


class LayerwiseEncoder(nn.Module):
    """An encoder of any supported family behind one call.

    `inputs` is float32 [N, S] for speech, [N, T, F] for face features, [N, frames, 3, H, W] for
    VideoMAE.
    """

    def __init__(self, model: Any, *, normalize: bool = False) -> None:
        super().__init__()
        family = model.config.model_type
        if family not in ADAPTERS:
            raise ConfigError(
                f"encoder: got a {family} model, expected one of {', '.join(ADAPTERS)}"
            )
        if getattr(model.config, "add_adapter", False):
            raise ConfigError(
                f"encoder: got a {family} model with an adapter behind its layers, which makes "
                "frames fewer and other than the layers', expected one without; set add_adapter to "
                "false in its config.json, which leaves the adapter's weights out"
            )

        self.model = model
        self.normalizes = normalize
        self._adapter = ADAPTERS[family](model, normalize)
        self._augmentation: Augmentation | None = None

    @property
    def modality(self) -> Modality:
        """The kind of input that the encoder takes."""
        return self._adapter.modality

    @property
    def width(self) -> int:
        """The width D: how many numbers a frame has."""
        return int(self.model.config.hidden_size)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        return self._adapter.layers

    @property
    def max_samples(self) -> int | None:
        """The longest utterance that the encoder can hear; None where there is no limit."""
        return self._adapter.max_samples

    @property
    def num_tokens(self) -> int:
        """How many extra tokens stand in front of the frames; 0 for an encoder without any."""
        return self._adapter.num_tokens

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        """What replaces hidden frames [D]; None for a checkpoint that has none; speech only."""
        return self._speech.mask_embedding

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next; speech only."""
        return self._speech.hop_samples

    @property
    def front_end(self) -> nn.Module:
        """The convolutions, whose output is [N, D, T] or a tuple that starts with it.

        Speech only.
        """
        return self._speech.front_end

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] that `lengths_N` samples give; speech only."""
        return self._speech.num_frames(lengths_N)

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        before_layer: BeforeLayer | None = None,
        hide_NT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the last layer's frames [N, T, D] and their mask [N, T].

        `before_layer` may change what each layer sees. Frames where `hide_NT` is true are hidden
        from the transformer: those of speech are replaced, those of video are left out.
        """
        if self._augmentation is None or not self.training:
            return self._adapter.run(inputs, lengths, before_layer, hide_NT)

        with self._augmentation.during(lengths):
            return self._adapter.run(inputs, lengths, before_layer, hide_NT)

    def hidden_states(
        self, inputs: Tensor, lengths: Tensor, before_layer: BeforeLayer | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Compute all hidden states [N, T, D], and the mask [N, T] of the last.

        These are the input of each layer and the encoder's output, one more than it has layers. The
        last state is behind the norm that ends some encoders (HuBERT large, WavLM large), whereas
        transformers since 5.0 reports the state before this norm.
        """
        states: list[Tensor] = []

        def keep(number: int, hidden_NTD: Tensor, mask_NT: Tensor) -> LayerInput:
            states.append(hidden_NTD)
            return (
                LayerInput(hidden_NTD, mask_NT)
                if before_layer is None
                else before_layer(number, hidden_NTD, mask_NT)
            )

        last_NTD, mask_NT = self(inputs, lengths, keep)
        rated = [self._adapter.at_frame_rate(state, last_NTD.shape[1]) for state in states]
        return [*rated, last_NTD], mask_NT

    def kept_tokens(self) -> AbstractContextManager[list[Tensor]]:
        """Collect the extra tokens [N, X, D] of each pass, in a list that grows by one a pass."""
        return self._adapter.kept_tokens()

    def learn_mask(self) -> None:
        """Train what replaces hidden frames; a checkpoint that has none gets a new one.

        Speech only.
        """
        self._speech.learn_mask()

    def augment(self, spans: SpecAugment, *, learned: bool) -> None:
        """Hide frames and channels in training, never in evaluation.

        With `learned`, hidden frames become the checkpoint's mask embedding, which goes on
        learning; else zero. Raises ConfigError for an encoder that cannot do so.
        """
        self._augmentation = Augmentation(self._adapter, spans, learned=learned)

    def checkpoint_gradients(self) -> None:
        """Compute each layer again in the backward pass, to save the memory of its activations.

        Only the layer's own `forward` is repeated. The seam before it has effects, such as the
        terms of P, and runs once: transformers' own switch would repeat the hooks too.
        """
        checkpoint_layers(self.layers)

    def freeze(self, *, front_end: bool, num_layers: int) -> None:
        """Stop training the front end and the lowest layers.

        Raises ConfigError when the encoder has fewer layers than `num_layers`.
        """
        if num_layers > len(self.layers):
            raise ConfigError(
                f"freeze_layers: got {num_layers}, expected at most the encoder's "
                f"{len(self.layers)}"
            )

        for layer in self.layers[:num_layers]:
            layer.requires_grad_(False)
        if front_end:
            self._adapter.freeze_front_end()

    @property
    def _speech(self) -> SpeechAdapter:
        if not isinstance(self._adapter, SpeechAdapter):
            family = self.model.config.model_type
            raise ConfigError(
                f"encoder: got a {family} model, which has no frames that masked prediction could "
                "hide; tapt, papt and the pseudo-labels of a layer want a model of raw sound, such "
                f"as HuBERT; {family} works with finetune, setpeer and weighting"
            )

        return self._adapter


def checkpoint_layers(layers: nn.ModuleList) -> None:
    """Have each layer compute its values again in the backward pass in place of keeping them."""
    for layer in layers:
        layer.forward = partial(_checkpointed, layer.forward)


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)

    return checkpoint(forward, *inputs, use_reentrant=False, **named)
