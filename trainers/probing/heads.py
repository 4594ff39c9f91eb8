"""The heads of a probe: small models over frozen features, with one call.

emotion2vec's two linear layers have 197,892 parameters for 768 numbers a frame and four classes,
the .20 M of its Table 2.

Shapes: B batch, T frames, L layers, D width, H hidden, C classes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from trainers.models.parts.pooling import masked_mean
from trainers.probing.config import HIDDEN_SIZE, HeadName

NUM_GRU_LAYERS = 2


class ProbeHead(nn.Module, ABC):
    """A head over frames [B, T, L, D]; of several layers it learns a weighted mean.

    The weights are a softmax, which begins with equal ones (SUPERB).
    """

    def __init__(self, num_layers: int, num_classes: int) -> None:
        super().__init__()
        self.layer_weights = nn.Parameter(torch.zeros(num_layers)) if num_layers > 1 else None
        self.output = nn.Linear(HIDDEN_SIZE, num_classes)

    def forward(self, frames_BTLD: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, C], and the hidden vectors [B, H] that they are made from."""
        if self.layer_weights is None:
            frames_BTD = frames_BTLD.squeeze(2)
        else:
            frames_BTD = torch.einsum("btld,l->btd", frames_BTLD, self.layer_weights.softmax(0))

        hidden_BH = self.hidden(frames_BTD, mask_BT)
        return self.output(hidden_BH), hidden_BH

    @abstractmethod
    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Compute one vector [B, H] for each utterance; padding has no influence."""


class LinearHead(ProbeHead):
    """A linear layer on each frame, the mean over time, and a linear layer to the classes.

    With `is_rectified` a ReLU stands before the mean: the head of emotion2vec, without it that of
    SUPERB.
    """

    def __init__(
        self, width: int, num_layers: int, num_classes: int, *, is_rectified: bool
    ) -> None:
        super().__init__(num_layers, num_classes)
        self.input = nn.Linear(width, HIDDEN_SIZE)
        self._activation = nn.ReLU() if is_rectified else nn.Identity()

    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Average the first layer's output over time."""
        return masked_mean(self._activation(self.input(frames_BTD)), mask_BT)


class RecurrentHead(ProbeHead):
    """Two layers of gated recurrent units; an utterance is the state after its last frame."""

    def __init__(self, width: int, num_layers: int, num_classes: int) -> None:
        super().__init__(num_layers, num_classes)
        self.input = nn.GRU(width, HIDDEN_SIZE, NUM_GRU_LAYERS, batch_first=True)

    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Take the upper layer's state after the last frame of each utterance."""
        return last_state(self.input, frames_BTD, mask_BT.sum(dim=1))


def last_state(gru: nn.GRU, rows_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The upper layer's state [B, H] after the last of each sequence's rows, at least one each."""
    packed = pack_padded_sequence(rows_BTD, lengths_B.cpu(), batch_first=True, enforce_sorted=False)
    states_BTH, lengths = pad_packed_sequence(gru(packed)[0], batch_first=True)
    last = (lengths - 1).to(states_BTH.device)
    return states_BTH[torch.arange(len(last), device=last.device), last]


def make_head(name: HeadName, width: int, num_layers: int, num_classes: int) -> ProbeHead:
    """The head of a name, with fresh weights."""
    if name == "gru":
        return RecurrentHead(width, num_layers, num_classes)
    return LinearHead(width, num_layers, num_classes, is_rectified=name == "emotion2vec")


def num_parameters(head: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in head.parameters())
