"""A probe learns what its inputs tell and nothing else, and is the same from the same seed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.trainers.probing.worlds import TellingInputs
from trainers.probing.config import TRAININGS, HeadName
from trainers.probing.divisions import Division
from trainers.probing.loop import Fitted, _optimizer, _scheduler, fit

LABELS = np.arange(120) % 3
DIVISION = Division(
    name="a", train=np.arange(60), validation=np.arange(60, 90), test=np.arange(90, 120)
)


def probe(head: HeadName = "emotion2vec", *, strength: float = 3.0, seed: int = 0) -> Fitted:
    own = TRAININGS[head]
    training = replace(
        own,
        batch_size=16,
        num_epochs=None if own.num_epochs is None else 12,
        num_steps=None if own.num_steps is None else 150,
        validate_every=None if own.validate_every is None else 40,
        learning_rate=1e-2 if own.num_steps else own.learning_rate,
    )
    inputs = TellingInputs(LABELS, strength)
    return fit(inputs, LABELS, 3, DIVISION, head, training, seed=seed)


@pytest.mark.parametrize("head", ["emotion2vec", "superb", "gru"])
def test_what_the_inputs_tell_is_learned(head: HeadName) -> None:
    """Classes that are far apart are told apart; inputs that tell nothing give chance."""
    found = probe(head)
    assert (found.probs_NC.argmax(axis=1) == LABELS[90:]).mean() > 0.9
    np.testing.assert_allclose(found.probs_NC.sum(axis=1), 1.0, rtol=1e-5)
    assert found.hidden_NH.shape == (30, 256)

    null = probe(head, strength=0.0)
    assert (null.probs_NC.argmax(axis=1) == LABELS[90:]).mean() < 0.7


def test_the_same_seed_gives_the_same_answers() -> None:
    """Bit for bit, whatever the random state of the process, which is left as it was."""
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = probe(seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)

    torch.manual_seed(8)
    np.testing.assert_array_equal(probe(seed=3).probs_NC, first.probs_NC)
    assert not np.array_equal(probe(seed=4).probs_NC, first.probs_NC)


def test_units_make_no_difference_to_scaled_inputs() -> None:
    """Numbers in other units give the same answers where inputs are brought to one scale."""

    class Scaled(TellingInputs):
        is_scaled = True
        unit = 1.0

        def read(self, row: int) -> NDArray[np.float16 | np.float32]:
            return super().read(row)[:1] * np.float32(self.unit) + np.float32(self.unit)

    training = replace(TRAININGS["emotion2vec"], batch_size=16, num_epochs=5)
    plain, other = Scaled(LABELS, 3.0), Scaled(LABELS, 3.0)
    other.unit = 1024.0
    found = [
        fit(one, LABELS, 3, DIVISION, "emotion2vec", training, seed=0).probs_NC
        for one in (plain, other)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=1e-3)
    assert (found[0].argmax(axis=1) == LABELS[90:]).mean() > 0.8


def test_the_best_validation_is_kept() -> None:
    """Validation against wrong labels falls with the epochs: an early epoch answers, not the last.

    Its answers are those of a run that ends there.
    """
    wrong = np.where(np.isin(np.arange(120), DIVISION.validation), (LABELS + 1) % 3, LABELS)
    training = replace(TRAININGS["emotion2vec"], batch_size=16, num_epochs=12)
    inputs = TellingInputs(LABELS, 2.0)
    found = fit(inputs, wrong, 3, DIVISION, "emotion2vec", training, seed=0)
    assert found.best_round < 12
    assert found.validation_accuracy < 0.7

    shorter = replace(training, num_epochs=found.best_round)
    ended = fit(inputs, wrong, 3, DIVISION, "emotion2vec", shorter, seed=0)
    np.testing.assert_array_equal(found.probs_NC, ended.probs_NC)


def test_the_rate_cycles_by_epochs() -> None:
    """Ten epochs up from 5e-4 to 1e-3 and ten down, as the paper's code does."""
    training = TRAININGS["emotion2vec"]
    optimizer = _optimizer(torch.nn.Linear(2, 2), training)
    scheduler = _scheduler(optimizer, training)
    assert scheduler is not None

    rates = []
    for _ in range(41):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    wanted = 5e-4 + 5e-4 * np.concatenate([np.arange(11), np.arange(9, -1, -1)]) / 10
    np.testing.assert_allclose(rates[:21], wanted)
    np.testing.assert_allclose(rates[20:41], wanted)


def test_shares_are_learned_in_place_of_classes() -> None:
    """Where 40 % of the people name the class, answers are less certain than where all do."""
    shares = np.full((120, 3), 0.3, dtype=np.float32)
    shares[np.arange(120), LABELS] = 0.4
    training = replace(TRAININGS["emotion2vec"], batch_size=16, num_epochs=12)
    inputs = TellingInputs(LABELS, 3.0)
    found = fit(
        inputs, LABELS, 3, DIVISION, "emotion2vec", training, seed=0, shares_NC=shares
    ).probs_NC
    certain = fit(inputs, LABELS, 3, DIVISION, "emotion2vec", training, seed=0).probs_NC
    assert (found.argmax(axis=1) == LABELS[90:]).mean() > 0.6
    assert found.max(axis=1).mean() < certain.max(axis=1).mean() - 0.1
