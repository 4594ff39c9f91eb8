"""Adapters of the encoders whose layers convolve too: Wav2Vec2-Conformer and w2v-BERT 2.

A layer's convolution must not see padding, and Wav2Vec2-Conformer's would; its input is therefore
cleared. A prefix stands before the first frame in the convolution as in attention. Relative
positions count it as Q frames more; rotary ones, which these models add before they project, are
counted from -Q, so that the frames keep theirs.

w2v-BERT hears log-mel energies, which are no part of its weights: there are no convolutions that
masked prediction could train, so `tapt` and `papt` do not take it.

Shapes: N utterances, S samples, T frames, Q prefix positions, D width.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import EncoderAdapter
from trainers.models.encoders.seams import BeforeLayer, LayerInput, seams
from trainers.models.encoders.speech.waveform import WaveformAdapter
from trainers.models.parts.filter_banks import KALDI_HOP_SAMPLES, KALDI_WINDOW_SAMPLES, KaldiLogMel
from trainers.models.parts.kept_batch_norm import KeptBatchNorm
from trainers.models.parts.layers import frame_mask

STACKED_FRAMES = 2  # log-mel frames in a frame of w2v-BERT
SHORTEST = KALDI_WINDOW_SAMPLES + (STACKED_FRAMES - 1) * KALDI_HOP_SAMPLES


class ConformerAdapter(WaveformAdapter):
    """Wav2Vec2-Conformer, with relative or rotary positions."""

    def __init__(self, model: Any, *, normalize: bool) -> None:
        super().__init__(model, normalize=normalize)
        _prepare_positions(model)
        layers: Any = self.layers
        for layer in layers:
            layer.conv_module.batch_norm = KeptBatchNorm(layer.conv_module.batch_norm)
            layer.forward = partial(_convolved_without_padding, layer.forward, layer.conv_module)

    def _seams(
        self, before_layer: BeforeLayer | None, mask_NT: Tensor
    ) -> AbstractContextManager[list[Tensor]]:
        return seams(self.layers, before_layer, mask_NT, _fit(self.model, mask_NT.shape[1]))


class Wav2Vec2BertAdapter(EncoderAdapter):
    """w2v-BERT 2; its frames are two frames of log-mel energies each, 20 ms."""

    FRONT_ENDS = ()

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        config = model.config
        config.layerdrop = 0.0
        config.apply_spec_augment = False
        if self.mask_embedding is not None:
            self.mask_embedding.requires_grad_(False)  # without hidden frames it has no gradient

        _prepare_positions(model)
        self._log_mel = KaldiLogMel(config.feature_projection_input_dim // STACKED_FRAMES)

    @property
    def modality(self) -> Modality:
        return "audio"

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = self.model.encoder.layers
        return found

    @property
    def projected(self) -> nn.Module:
        found: nn.Module = self.model.feature_projection
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        energies_N = (lengths_N.clamp_min(SHORTEST) - KALDI_WINDOW_SAMPLES) // KALDI_HOP_SAMPLES + 1
        return energies_N // STACKED_FRAMES

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        features_NTF = self._features(inputs, lengths_N.clamp_min(SHORTEST))
        mask_NT = frame_mask(self.num_frames(lengths_N), features_NTF.shape[1])

        with seams(self.layers, before_layer, mask_NT, _fit(self.model, mask_NT.shape[1])) as masks:
            dtype = next(self.model.parameters()).dtype
            output = self.model(features_NTF.to(dtype), attention_mask=mask_NT.long())
        return output.last_hidden_state, masks[-1]

    def _features(self, samples_NS: Tensor, lengths_N: Tensor) -> Tensor:
        """What the model's own feature extractor gives [N, T, F]: two log-mel frames side by side.

        A last frame without a second half is left out, as there.
        """
        longest = int(lengths_N.max())
        samples_NS = samples_NS[:, :longest]
        samples_NS = nn.functional.pad(samples_NS, (0, longest - samples_NS.shape[1]))
        energies_NTM = self._log_mel(samples_NS, lengths_N)

        num_frames = energies_NTM.shape[1] // STACKED_FRAMES
        whole_NTM = energies_NTM[:, : num_frames * STACKED_FRAMES]
        return whole_NTM.reshape(len(whole_NTM), num_frames, -1)


def _fit(model: Any, num_frames: int) -> Callable[[dict[str, Any], LayerInput], dict[str, Any]]:
    """Fit a layer's positions, and the mask of its convolution, to what the layer sees.

    `num_frames` counts the frames; whatever a layer sees beyond them stands before them.
    """

    def fit(named: dict[str, Any], seen: LayerInput) -> dict[str, Any]:
        named = named | {"conv_attention_mask": seen.mask_NT}
        num_before = seen.hidden_NTD.shape[1] - num_frames
        if num_before and named.get("relative_position_embeddings") is not None:
            named["relative_position_embeddings"] = model.encoder.embed_positions(
                seen.hidden_NTD, num_before
            )
        return named

    return fit


def _prepare_positions(model: Any) -> None:
    """Have the positions computed so that training can follow a validation, and with a prefix.

    transformers keeps them from one pass to the next. Those that a validation made, in inference
    mode, would have no gradient, and those of a model in bfloat16 would lack digits.
    """
    embed = getattr(model.encoder, "embed_positions", None)
    if embed is None:
        return

    kind = model.config.position_embeddings_type
    embed.forward = (
        partial(_rotary, model.config)
        if kind == "rotary"
        else partial(_outside_inference, embed.forward)
    )


def _rotary(config: Any, hidden_NTD: Tensor, num_before: int = 0) -> Tensor:
    """Cosines and sines [2, T, 1, 1, D'] of the positions from -`num_before` on (rotary: Su 2021).

    D' is the width of an attention head.
    """
    width = config.hidden_size // config.num_attention_heads
    device, length = hidden_NTD.device, hidden_NTD.shape[1]

    with torch.inference_mode(False):
        exponents = torch.arange(0, width, 2, device=device).float() / width
        places_T = torch.arange(-num_before, length - num_before, device=device).float()
        angles = places_T[:, None] / config.rotary_embedding_base**exponents
        angles = torch.cat([angles, angles], dim=-1)[:, None, None, :]
        return torch.stack([angles.cos(), angles.sin()]).to(hidden_NTD.dtype)


def _outside_inference(
    embed: Callable[[Tensor], Tensor], hidden_NTD: Tensor, num_before: int = 0
) -> Tensor:
    """Relative positions, which are as many as `hidden_NTD` asks for, prefix or not."""
    with torch.inference_mode(False):
        return embed(hidden_NTD)


def _convolved_without_padding(
    forward: Callable[..., Tensor],
    convolution: Any,
    *inputs: Any,
    conv_attention_mask: Tensor,
    **named: Any,
) -> Tensor:
    """A layer's forward pass, whose convolution sees zeros outside the mask [N, T]."""
    outside_N1T = ~conv_attention_mask.unsqueeze(1)
    clear = convolution.depthwise_conv.register_forward_pre_hook(
        lambda _, seen: seen[0].masked_fill(outside_N1T, 0.0)
    )
    try:
        return forward(*inputs, **named)
    finally:
        clear.remove()
