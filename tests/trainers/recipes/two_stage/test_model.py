"""The loss of a batch: which utterances teach, and how much a batch counts in its step."""

import pytest
import torch

from shards.loading.loader import Batch
from tests.worlds.branches import NAMES, batch_of, four_streams, utterance, without
from trainers.models.losses import class_balanced_cross_entropy
from trainers.recipes.two_stage.model import TwoStageModel

WEIGHTS = torch.tensor([0.5, 1.0, 1.5])


def batch(*, lacking: tuple[int, ...]) -> Batch:
    """Four utterances, of which those in `lacking` have no face."""
    utterances = [utterance(number) for number in range(4)]
    inputs = batch_of(
        [without("face", one) if row in lacking else one for row, one in enumerate(utterances)]
    )
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5], [0.1, 0.0, 0.9]])
    return Batch(
        inputs=inputs,
        targets={"ratings": shares},
        sets=torch.arange(4),
        rows=torch.arange(4),
        speakers=["somebody"] * 4,
        number=0,
    )


@pytest.mark.parametrize("lacking", [(), (1,), (0, 3)])
def test_the_loss_is_the_mean_over_utterances_with_all_inputs(lacking: tuple[int, ...]) -> None:
    """An utterance without a face teaches nothing, and counts nothing in the step."""
    recognizer = four_streams()
    model = TwoStageModel(recognizer, WEIGHTS).eval()
    given, whole = batch(lacking=lacking), batch(lacking=())
    with torch.no_grad():
        losses = class_balanced_cross_entropy(
            recognizer(whole.inputs).log_probs_NC, whole.targets["ratings"], WEIGHTS
        )
        found = model(given)["loss"]

    taught = [row for row in range(4) if row not in lacking]
    assert found.item() == pytest.approx(losses[taught].mean().item(), abs=1e-5)
    assert model.batch_weight(given) == len(taught)


def test_a_batch_without_a_whole_utterance_teaches_nothing() -> None:
    """Its loss is 0, and so are its gradients."""
    model = TwoStageModel(four_streams(), WEIGHTS)
    loss = model(batch(lacking=(0, 1, 2, 3)))["loss"]
    loss.backward()
    assert loss.item() == 0
    gradients = [value.grad for value in model.parameters() if value.grad is not None]
    assert gradients
    assert all((gradient == 0).all() for gradient in gradients)


def test_scores_are_logarithms_of_probabilities() -> None:
    """They sum to 1, one for each class."""
    scores = TwoStageModel(four_streams(), None).eval().scores(batch(lacking=(2,)))
    assert scores.shape == (4, len(NAMES))
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(4))
