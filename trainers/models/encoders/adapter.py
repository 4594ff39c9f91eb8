"""What a family of encoders has to say of itself, so that one call serves all of them.

A family is one class here and one line in `layerwise.ADAPTERS`.

Shapes: N utterances, S samples, T frames, D width.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from shards.loading.inputs import Modality
from trainers.models.encoders.seams import BeforeLayer


class EncoderAdapter(ABC):
    """One encoder of a family; `model` is what holds its weights, as transformers or this project
    has it.
    """

    FRONT_ENDS: ClassVar[tuple[str, ...]]  # the model's parts before its transformer layers

    def __init__(self, model: Any) -> None:
        self.model = model

    @property
    @abstractmethod
    def modality(self) -> Modality:
        """What it takes."""

    @property
    @abstractmethod
    def layers(self) -> nn.ModuleList:
        """The transformer layers, first to last."""

    @abstractmethod
    def run(
        self,
        inputs: Tensor,
        lengths_N: Tensor,
        before_layer: BeforeLayer | None,
        hide_NT: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Frames [N, T, D] of the last layer and their mask [N, T]; `before_layer` may change what
        each layer sees.

        Speech frames where `hide_NT` is true are hidden from the layers.
        """

    def freeze_front_end(self) -> None:
        """Stop training what stands before the layers."""
        for name in self.FRONT_ENDS:
            part = getattr(self.model, name, None)
            if part is not None:
                part.requires_grad_(False)


class SpeechAdapter(EncoderAdapter):
    """An encoder of sound, which can be asked to predict what it does not hear."""

    @property
    @abstractmethod
    def mask_embedding(self) -> nn.Parameter | None:
        """What hidden frames are replaced by [D]; None for a checkpoint made without."""

    @property
    @abstractmethod
    def hop_samples(self) -> int:
        """Samples from one frame to the next."""

    @property
    @abstractmethod
    def front_end(self) -> nn.Module:
        """The convolutions, whose output is [N, D, T] or a tuple that starts with it."""

    @abstractmethod
    def num_frames(self, lengths_N: Tensor) -> Tensor:
        """How many frames [N] come of so many samples."""

    @abstractmethod
    def learn_mask(self) -> None:
        """Train what hidden frames are replaced by; a checkpoint made without gets one."""
