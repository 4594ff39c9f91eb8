"""What each family of encoders defines, so that one call serves all of them.

A family is one class and one line in `layerwise.ADAPTERS`.

Shapes: N utterances, S samples, T frames, D width.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.seams import BeforeLayer


class EncoderAdapter(ABC):
    """An encoder of one family.

    `model` holds its weights; its class is one of transformers or of this project.
    """

    FRONT_ENDS: ClassVar[tuple[str, ...]]  # the model's parts before its transformer layers
    # How the output of `projected` lies in memory: [N, T, D] or [N, D, T].
    PROJECTED_LAYOUT: ClassVar[Literal["NTD", "NDT"]] = "NTD"
    # The longest utterance that the encoder can hear; None where there is no limit.
    max_samples: int | None = None
    # How many extra tokens stand in front of the frames, and leave with the output.
    num_tokens: int = 0

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """The kind of input that the encoder takes."""

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""

    @property
    def projected(self) -> nn.Module | None:
        """The part whose output, or the first of its outputs, is the frames before the layers.

        SpecAugment hides frames and channels there. None for a family that does not offer it.
        """
        return None

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        """What replaces hidden frames [D]; None for a checkpoint that has none."""
        found: nn.Parameter | None = getattr(self.model, "masked_spec_embed", None)
        return found

    @abstractmethod
    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """Count the frames [N] that inputs of `lengths_N` give."""

    @abstractmethod
    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Compute the last layer's frames [N, T, D] and their mask [N, T].

        `before_layer` may change what each layer sees. Frames where `hide_NT` is true are hidden
        from the layers: those of speech are replaced, those of video are left out.
        """

    @contextmanager
    def kept_tokens(self) -> Iterator[list[Tensor]]:
        """Collect the extra tokens [N, X, D] of each pass; empty for a family without any."""
        yield []

    def at_frame_rate(self, state_NTD: Tensor, num_frames: int) -> Tensor:
        """A layer's input, as many frames a second as the encoder gives: [N, num_frames, D]."""
        return state_NTD

    def freeze_front_end(self) -> None:
        """Stop training the parts before the transformer layers."""
        for name in self.FRONT_ENDS:
            part = getattr(self.model, name, None)
            if part is not None:
                part.requires_grad_(False)


class SpeechAdapter(EncoderAdapter):
    """An encoder of sound, which can learn to predict hidden frames."""

    @property
    @abstractmethod
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""

    @property
    @abstractmethod
    def front_end(self) -> nn.Module:
        """The convolutions, whose output is [N, D, T] or a tuple that starts with it."""

    @abstractmethod
    def learn_mask(self) -> None:
        """Train what replaces hidden frames; a checkpoint that has none gets a new one."""
