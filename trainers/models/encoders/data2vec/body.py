"""The body of an encoder: what has a teacher of its own in pre-training.

It hides frames, adds positions, puts the extra tokens in front, and runs the layers. data2vec 2.0
lets hidden frames leave before the first layer, since they would tell the layers nothing; data2vec
keeps them as the mask embedding. A recipe that predicts hidden frames from the encoder's own output
keeps them in either body.

Shapes: N utterances, T frames, K kept frames, X extra tokens, D width, H heads.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.layers import Alibi, PositionalConvolutions, PostNormLayer
from trainers.models.encoders.seams import BeforeLayer


class Contextualized(NamedTuple):
    """What a body makes of frames; a tuple, because ZeRO 3 looks for a module's outputs in one.

    `frames_NTD` [N, K, D] are the frames that were kept, under `mask_NT` [N, K]; `tokens_NXD`
    [N, X, D] are the extra tokens. `feed_forwards` are each layer's feed-forward outputs of the
    frames, if they were asked for.
    """

    frames_NTD: Tensor
    mask_NT: Tensor
    tokens_NXD: Tensor
    feed_forwards: tuple[Tensor, ...]


class Body(nn.Module):
    """Positions, extra tokens and layers.

    `layer_drop` is the probability that a layer is passed over in training; it is 0 unless
    pre-training sets it.
    """

    def __init__(self, config: Data2VecConfig) -> None:
        super().__init__()
        width, num_tokens = config.hidden_size, config.num_extra_tokens
        self.config, self.layer_drop = config, 0.0

        self.positions = PositionalConvolutions(config)
        self.norm = nn.LayerNorm(width, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout_probability)
        self.layers = nn.ModuleList(PostNormLayer(config) for _ in range(config.num_hidden_layers))

        self.tokens = nn.Parameter(new_tokens(num_tokens, width)) if num_tokens else None
        self.alibi = Alibi(config.num_attention_heads) if config.has_alibi else None
        self.mask_embedding = nn.Parameter(torch.rand(width)) if config.has_mask_embedding else None

    def forward(
        self,
        frames_NTD: Tensor,
        mask_NT: Tensor,
        hide_NT: Tensor | None = None,
        before_layer: BeforeLayer | None = None,
        *,
        remove_hidden: bool = False,
        want_feed_forwards: bool = False,
    ) -> Contextualized:
        """Compute the frames and tokens behind the last layer.

        Frames where `hide_NT` is true are hidden, equally many of each utterance where
        `remove_hidden` takes them out before the first layer. `before_layer` may change what each
        layer sees of the frames; tokens stay in front of that.
        """
        hidden_NTD = self._with_positions(frames_NTD, mask_NT, hide_NT)
        positions_NT = torch.arange(hidden_NTD.shape[1], device=hidden_NTD.device).expand(
            len(hidden_NTD), -1
        )
        if remove_hidden and hide_NT is not None:
            hidden_NTD, positions_NT, mask_NT = (
                _kept(values, hide_NT) for values in (hidden_NTD, positions_NT, mask_NT)
            )

        hidden_NTD = self.dropout(self.norm(self._behind_tokens(hidden_NTD)))
        with self._feed_forwards(want_feed_forwards) as found:
            hidden_NTD, mask_NT = self._run_layers(hidden_NTD, mask_NT, positions_NT, before_layer)

        num_tokens = self._num_tokens
        return Contextualized(
            hidden_NTD[:, num_tokens:],
            mask_NT,
            hidden_NTD[:, :num_tokens],
            tuple(output_NTD[:, num_tokens:] for output_NTD in found),
        )

    def _with_positions(
        self, frames_NTD: Tensor, mask_NT: Tensor, hide_NT: Tensor | None
    ) -> Tensor:
        if hide_NT is not None:
            instead = torch.zeros_like(frames_NTD[0, 0])
            if self.mask_embedding is not None:
                instead = self.mask_embedding.to(frames_NTD.dtype)
            frames_NTD = torch.where(hide_NT.unsqueeze(-1), instead, frames_NTD)

        return frames_NTD + self.positions(frames_NTD, mask_NT)

    @property
    def _num_tokens(self) -> int:
        return int(self.config.num_extra_tokens)

    def _behind_tokens(self, hidden_NTD: Tensor) -> Tensor:
        if self.tokens is None:
            return hidden_NTD
        return torch.cat([self.tokens.expand(len(hidden_NTD), -1, -1), hidden_NTD], dim=1)

    def _run_layers(
        self,
        hidden_NTD: Tensor,
        mask_NT: Tensor,
        positions_NT: Tensor,
        before_layer: BeforeLayer | None,
    ) -> tuple[Tensor, Tensor]:
        """Run the layers over tokens and frames; `mask_NT` and `positions_NT` are the frames'."""
        front, num_prefix = self._num_tokens, 0
        distances_NHTT = None if self.alibi is None else self.alibi(positions_NT)

        for number, layer in enumerate(self.layers):
            if before_layer is not None:
                seen = before_layer(number, hidden_NTD[:, front:], mask_NT)
                hidden_NTD = torch.cat([hidden_NTD[:, :front], seen.hidden_NTD], dim=1)
                mask_NT, num_prefix = seen.mask_NT, seen.num_prefix

            bias_NHTT = _attention_bias(distances_NHTT, mask_NT, front)
            hidden_NTD = self._or_passed_over(layer(hidden_NTD, bias_NHTT), hidden_NTD)

            if num_prefix:
                hidden_NTD = torch.cat(
                    [hidden_NTD[:, :front], hidden_NTD[:, front + num_prefix :]], dim=1
                )
            mask_NT = mask_NT[:, num_prefix:]

        return hidden_NTD, mask_NT

    def _or_passed_over(self, behind_NTD: Tensor, before_NTD: Tensor) -> Tensor:
        """The layer's output, or in training now and then its input."""
        if not self.training or self.layer_drop == 0.0:
            return behind_NTD

        # Why the layer has run all the same: under ZeRO 3, a rank that left one out would not bring
        # its part of the weights, for which the other ranks would wait.
        stays = (torch.rand(()) >= self.layer_drop).to(behind_NTD.device)
        return torch.where(stays, behind_NTD, before_NTD)

    @contextmanager
    def _feed_forwards(self, wanted: bool) -> Iterator[list[Tensor]]:
        """Collect every layer's feed-forward outputs in one pass."""
        found: list[Tensor] = []
        with ExitStack() as hooks:
            for layer in self.layers if wanted else ():
                part: nn.Module = layer.feed_forward  # type: ignore[assignment]
                hook = part.register_forward_hook(lambda _, __, output: found.append(output))
                hooks.callback(hook.remove)
            yield found


def new_tokens(num_tokens: int, width: int) -> Tensor:
    """Extra tokens [X, D] that have learned nothing: the first is zero, the others normal(0, 1)."""
    tokens_XD = torch.randn(num_tokens, width)
    tokens_XD[:1] = 0.0
    return tokens_XD


def _kept(values: Tensor, hide_NT: Tensor) -> Tensor:
    """The values [N, K, ...] of the frames that are not hidden, in order."""
    return values[~hide_NT].reshape(len(hide_NT), -1, *values.shape[2:])


def _attention_bias(distances_NHTT: Tensor | None, mask_NT: Tensor, num_tokens: int) -> Tensor:
    """What is added to the logits, where tokens and other positions stand in front of the frames.

    They are equally near to every frame. `mask_NT` covers all but the tokens.
    """
    heard_NT = F.pad(mask_NT, (num_tokens, 0), value=True)
    padding_N11T = torch.zeros_like(heard_NT, dtype=torch.float32).masked_fill(
        ~heard_NT, -torch.inf
    )[:, None, None, :]
    if distances_NHTT is None:
        return padding_N11T

    # A prefix may stay for one layer or, as a speaker's embedding does, for all.
    front = heard_NT.shape[1] - distances_NHTT.shape[-1]
    return F.pad(distances_NHTT, (front, 0, front, 0)) + padding_N11T
