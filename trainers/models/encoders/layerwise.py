"""One way into every encoder: frames out, and a seam before each transformer layer.

Prefixes, speaker embeddings and cross-attention all need to change what a layer sees. For the models of transformers
that is done with hooks on their own layer modules, so no forward pass is copied and a new release's changes arrive by
themselves: a pre-hook replaces the layer's input and widens its attention mask, a hook cuts the prefix off the output.
Copying each family's encoder loop was the alternative: five copies to keep in step.

A speech model whose convolutions use group norm (HuBERT base, wav2vec 2.0 base) averages over padding; its front end is
run on utterances of equal length, the rest of the model on the padded batch. data2vec's positional convolutions are
stacked, and from the second on would see what the first made of the padding; it is cleared before each.

SpecAugment and layer drop of transformers are off. The first draws from numpy's global generator, which neither a seed
nor a resume of ours reaches, and refuses utterances of under 0.2 s; the second leaves prefixes without a gradient.
Masked prediction says itself which frames are hidden.

Shapes: N utterances, S samples, T frames, Q prefix positions, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from shards.config import ConfigError
from shards.loading.inputs import Modality
from trainers.models.encoders.seams import BeforeLayer, Seam
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.encoders.speech import EqualLengths, receptive_field
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.log_mel import HOP_SAMPLES
from trainers.models.parts.waveforms import normalised

SPEECH_FAMILIES = ("hubert", "wav2vec2", "wavlm", "data2vec-audio")
_FRONT_ENDS = ("feature_extractor", "embeddings", "subsampling", "projection")


class LayerwiseEncoder(nn.Module):
    """An encoder of any supported family behind one call.

    `inputs` is float32 [N, S] for speech, [N, T, F] for face features, [N, frames, 3, H, W] for VideoMAE.
    """

    def __init__(self, model: Any, *, normalise: bool = False) -> None:
        super().__init__()
        self.model = model
        self._family = model.config.model_type
        self.normalises = normalise
        if not self.is_small and self._family not in (*SPEECH_FAMILIES, "videomae"):
            known = ", ".join((SequenceEncoderConfig.model_type, *SPEECH_FAMILIES, "videomae"))
            raise ConfigError(f"encoder: got a {self._family} model, expected one of {known}")
        if self._family in SPEECH_FAMILIES:
            model.config.layerdrop = 0.0
            model.config.apply_spec_augment = False
            model.config.mask_feature_prob = 0.0
        if (hidden := self.mask_embedding) is not None:
            hidden.requires_grad_(False)  # without masked prediction it has no gradient
        if getattr(model.config, "feat_extract_norm", None) == "group":
            model.feature_extractor.forward = EqualLengths(model.feature_extractor.forward, model)
            # Its parts run as often as there are lengths, which other ranks need not have: ZeRO 3 must bring all its
            # weights at once. It then takes their gradients when that of the input is there, so the input must have one
            # (see `_hear`), in place of the one transformers would give it further in.
            model.feature_extractor._z3_leaf = True
            model.feature_extractor._requires_grad = False

    @property
    def is_small(self) -> bool:
        """Whether this is the project's own small encoder."""
        return isinstance(self.model, SequenceEncoder)

    @property
    def modality(self) -> Modality:
        """What it takes."""
        if self.is_small:
            return "face" if self.model.config.front_end == "face" else "audio"
        return "video" if self._family == "videomae" else "audio"

    @property
    def width(self) -> int:
        """D, numbers a frame."""
        return int(self.model.config.hidden_size)

    @property
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""
        if self.is_small:
            return self.model.layers
        return self.model.encoder.layer if self._family == "videomae" else self.model.encoder.layers

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        """What hidden frames are replaced by [D]; None for VideoMAE and for a checkpoint made without."""
        name = "mask_embedding" if self.is_small else "masked_spec_embed"
        found: nn.Parameter | None = getattr(self.model, name, None)
        return found

    @property
    def hop_samples(self) -> int:
        """Samples from one frame to the next; speech only."""
        return HOP_SAMPLES * self.model.subsampling_factor if self.is_small else prod(self.model.config.conv_stride)

    @property
    def front_end(self) -> nn.Module:
        """The convolutions, whose output is [N, D, T] or a tuple that starts with it; speech only."""
        found: nn.Module = self.model.subsampling[-1] if self.is_small else self.model.feature_extractor
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """How many frames [N] come of so many samples; speech only."""
        if self.is_small:
            return self.model.num_frames(lengths_N)
        at_least_one = lengths_N.clamp_min(receptive_field(self.model.config))
        return self.model._get_feat_extract_output_lengths(at_least_one).long()

    def forward(
        self,
        inputs: Tensor,
        lengths: Tensor,
        before_layer: BeforeLayer | None = None,
        hide_NT: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frames [N, T, D] of the last layer and their mask [N, T]; speech frames where `hide_NT` is true are hidden
        from the transformer.
        """
        if self.is_small:
            return self.model(inputs, lengths, before_layer, hide_NT)
        if self._family == "videomae":
            return self._watch(inputs, before_layer)
        return self._hear(inputs, lengths, before_layer, hide_NT)

    def learn_mask(self) -> None:
        """Train what hidden frames are replaced by; a checkpoint made without gets one."""
        if self.mask_embedding is None:
            self.model.masked_spec_embed = nn.Parameter(torch.rand(self.width))
            self.model.config.mask_time_prob = 0.05  # above 0, or loading leaves the embedding out
        assert self.mask_embedding is not None  # noqa: S101 (it has been made)
        self.mask_embedding.requires_grad_(True)

    def checkpoint_gradients(self) -> None:
        """Compute each layer again in the backward pass, in place of keeping what it computed.

        Of a layer only its own `forward` is repeated. The seam before it has effects, such as the terms of P, and runs
        once: transformers' own switch would repeat the hooks too.
        """
        for layer in self.layers:
            layer.forward = partial(_checkpointed, layer.forward)

    def freeze(self, *, front_end: bool, num_layers: int) -> None:
        """Stop training the convolutional front end and the lowest layers; ConfigError when there are not so many."""
        if num_layers > len(self.layers):
            raise ConfigError(f"freeze_layers: got {num_layers}, expected at most the encoder's {len(self.layers)}")
        parts: list[nn.Module] = list(self.layers[:num_layers])
        if front_end:
            parts += [module for name, module in self.model.named_children() if name in _FRONT_ENDS]
            if self._family in SPEECH_FAMILIES:
                self.model.feature_extractor._freeze_parameters()  # or it keeps every activation for a backward pass
        for part in parts:
            part.requires_grad_(False)

    def _hear(
        self, samples_NS: Tensor, lengths_N: Tensor, before_layer: BeforeLayer | None, hide_NT: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        values, lengths_N = self._prepared(samples_NS, lengths_N)
        frames_N = self.num_frames(lengths_N)
        mask_NT = frame_mask(frames_N, int(frames_N.max()))
        valid_NS = frame_mask(lengths_N, values.shape[1])
        if torch.is_grad_enabled() and getattr(self.model.feature_extractor, "_z3_leaf", False):
            values = values.detach().requires_grad_(next(self.model.feature_extractor.parameters()).requires_grad)
        with self._blind_to_padding(lengths_N, mask_NT), self._seams(before_layer, mask_NT) as masks:
            dtype = next(self.model.parameters()).dtype
            self.model.config.apply_spec_augment = hide_NT is not None  # the switch of all hiding
            output = self.model(values.to(dtype), attention_mask=valid_NS.long(), mask_time_indices=hide_NT)
            self.model.config.apply_spec_augment = False
        return output.last_hidden_state, masks[-1]

    def _prepared(self, samples_NS: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised samples cut to the longest utterance; one too short for a single frame is filled up with zeros."""
        shortest = receptive_field(self.model.config)
        samples_NS = samples_NS[:, : int(lengths_N.max())]
        samples_NS = nn.functional.pad(samples_NS, (0, max(0, shortest - samples_NS.shape[1])))
        if self.normalises:
            samples_NS = normalised(samples_NS, frame_mask(lengths_N, samples_NS.shape[1]))
        return samples_NS, lengths_N.clamp_min(shortest)

    @contextmanager
    def _blind_to_padding(self, lengths_N: Tensor, mask_NT: Tensor) -> Iterator[None]:
        """For one forward pass, keep padding out of the convolutions that transformers lets see it."""
        front_end = self.model.feature_extractor.forward
        with ExitStack() as undo:
            if isinstance(front_end, EqualLengths):
                front_end.lengths_N = lengths_N
                undo.callback(setattr, front_end, "lengths_N", None)
            if self._family == "data2vec-audio":
                outside_N1T = ~mask_NT.unsqueeze(1)
                for convolution in self.model.encoder.pos_conv_embed.layers:
                    clear = convolution.register_forward_pre_hook(lambda _, seen: seen[0].masked_fill(outside_N1T, 0.0))
                    undo.callback(clear.remove)
            yield

    def _watch(self, pixels: Tensor, before_layer: BeforeLayer | None) -> tuple[Tensor, Tensor]:
        config = self.model.config
        num_patches = (config.image_size // config.patch_size) ** 2 * (config.num_frames // config.tubelet_size)
        mask_NT = torch.ones(len(pixels), num_patches, dtype=torch.bool, device=pixels.device)
        with self._seams(before_layer, mask_NT) as masks:
            dtype = next(self.model.parameters()).dtype
            output = self.model(pixels.to(dtype))
        return output.last_hidden_state, masks[-1]

    @contextmanager
    def _seams(self, before_layer: BeforeLayer | None, mask_NT: Tensor) -> Iterator[list[Tensor]]:
        """Install the hooks for one forward pass; yields the list whose last item is the mask of the output."""
        masks = [mask_NT]
        with ExitStack() as hooks:
            if before_layer is not None:
                for number, layer in enumerate(self.layers):
                    seam = Seam(number, before_layer, masks)
                    before = layer.register_forward_pre_hook(seam.before, with_kwargs=True)
                    hooks.callback(before.remove)
                    hooks.callback(layer.register_forward_hook(seam.after).remove)
            yield masks


def _checkpointed(forward: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)

    return checkpoint(forward, *inputs, use_reentrant=False, **named)
