"""The heads of a probe: small models over frozen features, with one call.

Over one utterance, T counts its frames. Over a conversation it counts the utterances of the turns
before, and a number for each says which turn it belongs to.

emotion2vec's two linear layers have 197,892 parameters for 768 numbers a frame and four classes,
the .20 M of its Table 2.

Shapes: B batch, T frames, L layers, D width, H hidden, C classes.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

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

    def forward(
        self, frames_BTLD: Tensor, mask_BT: Tensor, turns_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compute logits [B, C], and the hidden vectors [B, H] that they are made from.

        `turns_BT` are the turns of a conversation, from 0; padding may have any number.
        """
        if self.layer_weights is None:
            frames_BTD = frames_BTLD.squeeze(2)
        else:
            frames_BTD = torch.einsum("btld,l->btd", frames_BTLD, self.layer_weights.softmax(0))

        hidden_BH = self.hidden(frames_BTD, mask_BT, turns_BT)
        return self.output(hidden_BH), hidden_BH

    @abstractmethod
    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor, turns_BT: Tensor | None) -> Tensor:
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

    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor, turns_BT: Tensor | None) -> Tensor:
        """Average the first layer's output over time."""
        return masked_mean(self._activation(self.input(frames_BTD)), mask_BT)


class RecurrentHead(ProbeHead):
    """Two layers of gated recurrent units; an utterance is the state after its last frame."""

    def __init__(self, width: int, num_layers: int, num_classes: int) -> None:
        super().__init__(num_layers, num_classes)
        self.input = nn.GRU(width, HIDDEN_SIZE, NUM_GRU_LAYERS, batch_first=True)

    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor, turns_BT: Tensor | None) -> Tensor:
        """Take the upper layer's state after the last frame of each utterance."""
        return last_state(self.input, frames_BTD, mask_BT.sum(dim=1))


class ConversationHead(ProbeHead):
    """Two layers of gated recurrent units: over the utterances of a turn, then over the turns.

    A turn is the lower layer's state after its last utterance, and the past is the upper layer's
    state after its last turn (emotion2vec, section 5.4). Each utterance is one vector.
    """

    def __init__(self, width: int, num_layers: int, num_classes: int) -> None:
        super().__init__(num_layers, num_classes)
        self.within_turn = nn.GRU(width, HIDDEN_SIZE, batch_first=True)
        self.over_turns = nn.GRU(HIDDEN_SIZE, HIDDEN_SIZE, batch_first=True)

    def hidden(self, frames_BTD: Tensor, mask_BT: Tensor, turns_BT: Tensor | None) -> Tensor:
        """Take the state after the last turn of each past. Raises ValueError without turns."""
        if turns_BT is None:
            raise ValueError("a conversation's head needs the turn of each utterance, got none")

        # Pasts differ in turns, and turns in utterances, so all turns of the batch lie in a row.
        sizes = [
            torch.bincount(turns_T[mask_T])
            for turns_T, mask_T in zip(turns_BT, mask_BT, strict=True)
        ]
        lengths = torch.cat(sizes)
        said = pad_sequence(
            list(torch.split(frames_BTD[mask_BT], lengths.tolist())), batch_first=True
        )
        turns_MH = last_state(self.within_turn, said, lengths)

        num_turns = torch.tensor([len(mine) for mine in sizes])
        pasts = list(torch.split(turns_MH, num_turns.tolist()))
        return last_state(self.over_turns, pad_sequence(pasts, batch_first=True), num_turns)


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
