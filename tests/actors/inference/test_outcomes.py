from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.inference.outcomes import Missing, class_probabilities, run_batches
from actors.labeling.labelers.emotion_mapping import EmotionMapping, emotions
from shards.emotions import EMOTIONS


class SmallMemory:
    """Stands in for a GPU: batches over `room` items raise what torch raises there."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.sizes: list[int] = []

    def __call__(self, batch: Sequence[int]) -> Tensor:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return torch.tensor(batch).unsqueeze(1) * 10


def test_a_batch_too_large_for_memory_is_halved() -> None:
    """A batch is halved until the halves fit, and every item keeps its own row."""
    memory = SmallMemory(room=2)
    rows = run_batches([[0, 1, 2, 3, 4, 5, 6], [7]], memory)

    assert {index: int(row) for index, row in rows.items()} == {
        index: index * 10 for index in range(8)
    }
    assert memory.sizes == [7, 3, 1, 2, 4, 2, 2, 1]


def test_one_item_that_does_not_fit_is_raised_with_a_remedy() -> None:
    """A single item that does not fit raises an error that says what to change."""
    with pytest.raises(torch.cuda.OutOfMemoryError) as raised:
        run_batches([[0, 1]], SmallMemory(room=0))
    assert "window_seconds" in raised.value.__notes__[0]


def test_other_errors_are_not_retried() -> None:
    """An error other than lack of memory is raised at once."""

    def broken(batch: Sequence[int]) -> Tensor:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_batches([[0, 1]], broken)


def test_multi_label_checkpoints_use_independent_probabilities() -> None:
    """problem_type decides between softmax and sigmoid, as in the transformers pipeline."""
    logits = torch.tensor([[0.0, 2.0]])

    single = class_probabilities(logits, type("Config", (), {"problem_type": None}))
    several = class_probabilities(
        logits, type("Config", (), {"problem_type": "multi_label_classification"})
    )

    np.testing.assert_allclose(single[0], np.exp([0, 2]) / np.exp([0, 2]).sum(), rtol=1e-6)
    np.testing.assert_allclose(several[0], 1 / (1 + np.exp([0, -2])), rtol=1e-6)


def test_nan_from_a_model_is_a_reason_and_not_a_row() -> None:
    """A prediction that is not finite is missing, with its reason."""
    mapping = EmotionMapping.of(
        dict(enumerate(EMOTIONS)), drop_labels=(), label_names={}, checkpoint="x"
    )

    outcome = emotions(mapping, np.full(7, np.nan))
    assert isinstance(outcome, Missing)
    assert outcome.reason.startswith("non_finite_prediction: ")
