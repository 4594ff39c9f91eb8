"""Adapters of transformers' speech encoders, in which an utterance never hears padding.

A model whose convolutions use group norm (HuBERT base, wav2vec 2.0 base) averages over padding.
Its front end therefore runs on utterances of equal length, the rest of the model on the padded
batch. data2vec stacks its positional convolutions, and each but the first would see what the one
before made of the padding; the padding is therefore cleared before each.

SpecAugment and layer drop of transformers are off; the project's own SpecAugment is in
`augmenting.py`. That of transformers draws from numpy's global generator,
which neither a seed nor a resume of ours reaches, and refuses utterances of under 0.2 s. Layer drop
leaves prefixes without a gradient. Masked prediction says itself which frames are hidden.

Shapes: N utterances, S samples, T frames, C channels, D width.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.adapter import SpeechAdapter
from trainers.models.encoders.seams import BeforeLayer, seams
from trainers.models.parts.layers import frame_mask
from trainers.models.parts.waveforms import normalized


class WaveformAdapter(SpeechAdapter):
    """HuBERT, wav2vec 2.0, WavLM and UniSpeech-SAT; `normalize` as in the model's pre-training."""

    FRONT_ENDS = ("feature_extractor",)

    def __init__(self, model: Any, *, normalize: bool) -> None:
        super().__init__(model)
        self._normalize = normalize

        model.config.layerdrop = 0.0
        model.config.apply_spec_augment = False
        model.config.mask_feature_prob = 0.0
        if self.mask_embedding is not None:
            # Without masked prediction it has no gradient.
            self.mask_embedding.requires_grad_(False)

        if getattr(model.config, "feat_extract_norm", None) == "group":
            model.feature_extractor.forward = EqualLengths(model.feature_extractor.forward, model)
            # Its parts run as often as there are lengths, which other ranks need not have: ZeRO 3
            # must bring all its weights at once. It then takes their gradients when that of the
            # input is there, so the input must have one (see `run`), in place of the one
            # transformers would give it further in.
            model.feature_extractor._z3_leaf = True
            model.feature_extractor._requires_grad = False

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

    @property
    def hop_samples(self) -> int:
        return prod(self.model.config.conv_stride)

    @property
    def front_end(self) -> nn.Module:
        found: nn.Module = self.model.feature_extractor
        return found

    def num_frames(self, lengths_N: Tensor) -> Tensor:
        at_least_one_N = lengths_N.clamp_min(self._shortest)
        frames_N: Tensor = self.model._get_feat_extract_output_lengths(at_least_one_N)
        return frames_N.long()

    @property
    def _shortest(self) -> int:
        """The samples that the model needs."""
        return receptive_field(self.model.config)

    def learn_mask(self) -> None:
        if self.mask_embedding is None:
            self.model.masked_spec_embed = nn.Parameter(torch.rand(self.model.config.hidden_size))
            self.model.config.mask_time_prob = 0.05  # above 0, or loading leaves the embedding out
        assert self.mask_embedding is not None  # noqa: S101 (it has been made)
        self.mask_embedding.requires_grad_(True)

    def freeze_front_end(self) -> None:
        super().freeze_front_end()
        # Otherwise it keeps every activation for a backward pass.
        self.model.feature_extractor._freeze_parameters()

    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        values_NS, lengths_N = self._prepared(inputs, lengths_N)
        frames_N = self.num_frames(lengths_N)
        mask_NT = frame_mask(frames_N, int(frames_N.max()))
        valid_NS = frame_mask(lengths_N, values_NS.shape[1])
        if torch.is_grad_enabled() and getattr(self.front_end, "_z3_leaf", False):
            values_NS = values_NS.detach().requires_grad_(
                next(self.front_end.parameters()).requires_grad
            )

        with (
            self._blind_to_padding(lengths_N, mask_NT),
            self._seams(before_layer, mask_NT) as masks,
        ):
            dtype = next(self.model.parameters()).dtype
            self.model.config.apply_spec_augment = hide_NT is not None  # the switch of all hiding
            output = self.model(
                values_NS.to(dtype), attention_mask=valid_NS.long(), mask_time_indices=hide_NT
            )
            self.model.config.apply_spec_augment = False
        return self._finished(output.last_hidden_state, mask_NT, masks[-1])

    def _seams(
        self, before_layer: BeforeLayer | None, mask_NT: Tensor
    ) -> AbstractContextManager[list[Tensor]]:
        return seams(self.layers, before_layer, mask_NT)

    def _finished(
        self, last_NTD: Tensor, mask_NT: Tensor, layers_mask_NT: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The output and its mask, from the mask of the frames and that behind the last layer."""
        return last_NTD, layers_mask_NT

    def _prepared(self, samples_NS: Tensor, lengths_N: Tensor) -> tuple[Tensor, Tensor]:
        """Normalize the samples and cut them to the longest utterance.

        An utterance too short for a single frame is filled up with zeros.
        """
        shortest = self._shortest
        samples_NS = samples_NS[:, : int(lengths_N.max())]
        samples_NS = nn.functional.pad(samples_NS, (0, max(0, shortest - samples_NS.shape[1])))
        if self._normalize:
            samples_NS = normalized(samples_NS, frame_mask(lengths_N, samples_NS.shape[1]))

        return samples_NS, lengths_N.clamp_min(shortest)

    @contextmanager
    def _blind_to_padding(self, lengths_N: Tensor, mask_NT: Tensor) -> Iterator[None]:
        """For one forward pass, keep padding out of the convolutions that would see it."""
        with ExitStack() as undo:
            if isinstance(self.front_end.forward, EqualLengths):
                self.front_end.forward.lengths_N = lengths_N
                undo.callback(setattr, self.front_end.forward, "lengths_N", None)

            for convolution in self._stacked_convolutions():
                outside_N1T = ~mask_NT.unsqueeze(1)
                clear = convolution.register_forward_pre_hook(
                    lambda _, seen, outside=outside_N1T: seen[0].masked_fill(outside, 0.0)
                )
                undo.callback(clear.remove)

            yield

    def _stacked_convolutions(self) -> list[nn.Module]:
        """The positional convolutions that follow one another."""
        return []


class Data2VecAdapter(WaveformAdapter):
    """data2vec audio."""

    def _stacked_convolutions(self) -> list[nn.Module]:
        return list(self.model.encoder.pos_conv_embed.layers)


class EqualLengths:
    """A group-norm front end that runs once for each length in the batch.

    So it never sees padding.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], model: Any) -> None:
        self._forward, self._model = forward, model
        self.lengths_N: Tensor | None = None

    def __call__(self, samples_NS: Tensor) -> Tensor:
        """Compute features [N, C, T] that are zero behind each utterance's last frame."""
        lengths_N = self.lengths_N
        if lengths_N is None:
            return self._forward(samples_NS)

        frames_N = self._model._get_feat_extract_output_lengths(lengths_N).long()
        parts: dict[int, Tensor] = {}

        for length in sorted(set(lengths_N.tolist())):
            rows = torch.nonzero(lengths_N == length).flatten()
            found = self._forward(samples_NS[rows, :length])
            padded = nn.functional.pad(found, (0, int(frames_N.max()) - found.shape[-1]))
            parts.update(zip(rows.tolist(), padded, strict=True))

        return torch.stack([parts[row] for row in range(len(lengths_N))])


def normalizes(config: Any) -> bool:
    """Whether the model was pre-trained on normalized waveforms.

    Models with layer norm in their feature extractor were (HuBERT's recipe). data2vec's extractor
    always has it, so its configuration does not say so. The project's own encoders say it.
    """
    return (
        getattr(config, "normalize", False)
        or config.model_type == "data2vec-audio"
        or getattr(config, "feat_extract_norm", None) == "layer"
    )


def receptive_field(config: Any) -> int:
    """Samples that one frame of the convolutional front end sees: 400 for the published models."""
    samples = 1
    for kernel, stride in zip(
        reversed(config.conv_kernel), reversed(config.conv_stride), strict=True
    ):
        samples = (samples - 1) * stride + kernel
    return samples
