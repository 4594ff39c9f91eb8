"""Trains one head on frozen inputs and tests it: a plain loop, the same from the same seed.

A probe has 0.2 million parameters and is trained for many folds, so it needs neither DeepSpeed nor
several processes. The weights of the best validation are tested; of equal ones, the first.

Shapes: N utterances, B batch, T frames, L layers, D width, H hidden, C classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainers.models.parts.device import default_device
from trainers.probing.config import HeadName, Training
from trainers.probing.conversations import ConversationInputs
from trainers.probing.divisions import Division
from trainers.probing.heads import ConversationHead, ProbeHead, make_head, num_parameters
from trainers.probing.inputs import Inputs

MOMENTUM = 0.9  # of RMSprop, in emotion2vec's published code
MIN_SPREAD = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A trained head's answers to the tested utterances, and how it was chosen.

    `best_round` is the epoch, or the validation in steps, whose weights are tested; the first is 1.
    `layer_weights` [L] are empty where no layers are mixed.
    """

    probs_NC: NDArray[np.float32]
    hidden_NH: NDArray[np.float32]
    best_round: int
    validation_accuracy: float
    layer_weights: Sequence[float]
    num_parameters: int


@dataclass(frozen=True, slots=True)
class _Scale:
    """Brings numbers of different units to mean 0 and spread 1, as training utterances have them.

    What an utterance does not have (NaN) takes the mean.
    `mean` and `spread` are [D]; None leaves the numbers as they are.
    """

    mean: Tensor | None = None
    spread: Tensor | None = None

    def __call__(self, frames_TLD: Tensor) -> Tensor:
        if self.mean is None or self.spread is None:
            return frames_TLD
        return ((frames_TLD - self.mean) / self.spread).nan_to_num(nan=0.0)


def fit(
    inputs: Inputs,
    labels: NDArray[np.int64],
    num_classes: int,
    division: Division,
    head_name: HeadName,
    training: Training,
    *,
    seed: int,
    shares_NC: NDArray[np.float32] | None = None,
) -> Fitted:
    """Train on `division.train`, choose on `division.validation`, answer to `division.test`.

    `labels` [N] are the classes of all utterances. With `shares_NC` these distributions are learned
    in their place. Conversations have a head of their own. The random state of the process is left
    as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = inputs.read(int(division.train[0])).shape[2]
        if isinstance(inputs, ConversationInputs):
            head: ProbeHead = ConversationHead(width, inputs.num_layers, num_classes)
        else:
            head = make_head(head_name, width, inputs.num_layers, num_classes)
        learned = labels if shares_NC is None else shares_NC
        trainer = _Trainer(head, inputs, labels, learned, division, training, seed)

        best_round, accuracy = trainer.run()
        probs_NC, hidden_NH = trainer.answers(division.test)

    weights = head.layer_weights
    return Fitted(
        probs_NC=probs_NC,
        hidden_NH=hidden_NH,
        best_round=best_round,
        validation_accuracy=accuracy,
        layer_weights=[] if weights is None else weights.detach().softmax(0).tolist(),
        num_parameters=num_parameters(head),
    )


class _Trainer:
    """A head on its way through the epochs of one division."""

    def __init__(
        self,
        head: ProbeHead,
        inputs: Inputs,
        labels: NDArray[np.int64],
        learned: NDArray[np.int64] | NDArray[np.float32],
        division: Division,
        training: Training,
        seed: int,
    ) -> None:
        self._device = default_device()
        self._head = head.to(self._device)
        self._inputs, self._labels, self._learned = inputs, labels, learned
        self._division, self._training = division, training
        self._order = np.random.default_rng(seed)
        self._scale = _scale_of(inputs, division.train) if inputs.is_scaled else _Scale()

        self._optimizer = _optimizer(head, training)
        self._scheduler = _scheduler(self._optimizer, training)

    def run(self) -> tuple[int, float]:
        """Train; return the number and the accuracy of the best validation, whose weights stay."""
        best_round, best, weights = 0, -1.0, {}
        for number, batches in enumerate(self._rounds(), 1):
            self._head.train()
            for rows in batches:
                self._step(rows)
            if self._scheduler is not None:
                self._scheduler.step()

            accuracy = self._accuracy(self._division.validation)
            if accuracy > best:
                best_round, best = number, accuracy
                weights = {
                    name: value.detach().clone() for name, value in self._head.state_dict().items()
                }

        self._head.load_state_dict(weights)
        return best_round, best

    @torch.inference_mode()
    def answers(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The probabilities [N, C] and hidden vectors [N, H] of utterances, in their order."""
        self._head.eval()
        parts = []
        for start in range(0, len(rows), self._training.batch_size):
            logits_BC, hidden_BH = self._head(
                *self._batch(rows[start : start + self._training.batch_size])
            )
            parts.append((logits_BC.softmax(dim=1).cpu().numpy(), hidden_BH.cpu().numpy()))

        probs, hidden = zip(*parts, strict=True)
        return np.concatenate(probs), np.concatenate(hidden)

    def _rounds(self) -> Iterator[list[NDArray[np.int64]]]:
        """The batches between two validations: an epoch, or a number of steps."""
        training = self._training
        if training.num_epochs is not None:
            for _ in range(training.num_epochs):
                yield self._epoch()
            return

        assert training.num_steps is not None  # noqa: S101 (a training has epochs or steps)
        assert training.validate_every is not None  # noqa: S101 (with its steps)
        batches: list[NDArray[np.int64]] = []
        for first in range(0, training.num_steps, training.validate_every):
            wanted = min(training.validate_every, training.num_steps - first)
            while len(batches) < wanted:
                batches += self._epoch()
            yield batches[:wanted]
            batches = batches[wanted:]

    def _epoch(self) -> list[NDArray[np.int64]]:
        """All training utterances once, in a new order."""
        rows, size = self._order.permutation(self._division.train), self._training.batch_size
        return [rows[start : start + size] for start in range(0, len(rows), size)]

    def _step(self, rows: NDArray[np.int64]) -> None:
        learned = torch.from_numpy(self._learned[rows]).to(self._device)
        logits_BC, _ = self._head(*self._batch(rows))

        self._optimizer.zero_grad()
        F.cross_entropy(logits_BC, learned).backward()  # type: ignore[no-untyped-call]
        if self._training.clip is not None:
            nn.utils.clip_grad_norm_(self._head.parameters(), self._training.clip)
        self._optimizer.step()

    def _accuracy(self, rows: NDArray[np.int64]) -> float:
        probs_NC, _ = self.answers(rows)
        return float((probs_NC.argmax(axis=1) == self._labels[rows]).mean())

    def _batch(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor | None]:
        """The padded inputs [B, T, L, D], their mask [B, T], and the turns [B, T] of a past."""
        frames = [
            self._scale(torch.from_numpy(self._inputs.read(int(row))).float()) for row in rows
        ]
        padded_BTLD = nn.utils.rnn.pad_sequence(frames, batch_first=True)
        lengths_B = torch.tensor([len(one) for one in frames])
        mask_BT = torch.arange(padded_BTLD.shape[1]) < lengths_B[:, None]
        return (
            padded_BTLD.to(self._device),
            mask_BT.to(self._device),
            self._turns(rows),
        )

    def _turns(self, rows: NDArray[np.int64]) -> Tensor | None:
        if not isinstance(self._inputs, ConversationInputs):
            return None
        turns = [torch.from_numpy(self._inputs.turns(int(row))) for row in rows]
        return nn.utils.rnn.pad_sequence(turns, batch_first=True).to(self._device)


def _optimizer(head: nn.Module, training: Training) -> torch.optim.Optimizer:
    if training.optimizer == "adam":
        return torch.optim.Adam(head.parameters(), lr=training.learning_rate)
    return torch.optim.RMSprop(head.parameters(), lr=training.learning_rate, momentum=MOMENTUM)


def _scheduler(
    optimizer: torch.optim.Optimizer, training: Training
) -> torch.optim.lr_scheduler.CyclicLR | None:
    """The cycle of the learning rate; the momentum goes the other way, torch's default."""
    if training.peak_rate is None:
        return None
    return torch.optim.lr_scheduler.CyclicLR(
        optimizer,
        base_lr=training.learning_rate,
        max_lr=training.peak_rate,
        step_size_up=training.cycle_epochs,
    )


def _scale_of(inputs: Inputs, rows: NDArray[np.int64]) -> _Scale:
    """The mean and spread [D] of each number over the training utterances that have it."""
    values_ND = np.concatenate([inputs.read(int(row))[:, 0] for row in rows]).astype(np.float64)
    is_known_ND = np.isfinite(values_ND)
    counts_D = is_known_ND.sum(axis=0).clip(1)

    mean_D = np.where(is_known_ND, values_ND, 0.0).sum(axis=0) / counts_D
    deviations_ND = np.where(is_known_ND, values_ND - mean_D, 0.0)
    spread_D = np.sqrt(np.square(deviations_ND).sum(axis=0) / counts_D)
    usable_D = np.where(spread_D > MIN_SPREAD, spread_D, 1.0)
    return _Scale(torch.from_numpy(mean_D).float(), torch.from_numpy(usable_D).float())
