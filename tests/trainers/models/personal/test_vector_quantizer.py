"""The codebook's look-up and gradients are those by hand, and nothing undoes its restarts."""

import pytest
import torch

from trainers.models.personal.vector_quantizer import RESTART_AFTER_STEPS, VectorQuantizer


def test_a_vector_becomes_its_nearest_code() -> None:
    """By hand: the codes are (0,0), (1,0), (0,2), and the loss has the factor 1 + commitment."""
    quantizer = VectorQuantizer(3, 2, commitment=0.25)
    quantizer.codebook.weight.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = quantizer(torch.tensor([[0.9, 0.1], [0.1, 1.4]]))
    assert found.codes.tolist() == [1, 2]
    torch.testing.assert_close(found.vectors, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    squared = (0.1**2 + 0.1**2 + 0.1**2 + 0.6**2) / 4
    torch.testing.assert_close(found.loss, torch.tensor(1.25 * squared))


def test_gradients_pass_straight_through() -> None:
    """The vectors get the gradient of the output, and codes move by the loss alone."""
    quantizer = VectorQuantizer(4, 3)
    vectors = torch.randn(5, 3, requires_grad=True)
    upstream = torch.randn(5, 3)
    (quantizer(vectors).vectors * upstream).sum().backward()  # type: ignore[no-untyped-call]

    torch.testing.assert_close(vectors.grad, upstream)
    assert quantizer.codebook.weight.grad is None

    quantizer(torch.randn(5, 3)).loss.backward()
    assert quantizer.codebook.weight.grad is not None
    assert quantizer.codebook.weight.grad.abs().sum() > 0


def test_normalized_vectors_are_compared_by_shape_alone() -> None:
    """With the layer norm, scaling and shifting a vector changes nothing."""
    quantizer = VectorQuantizer(6, 4, normalize=True)
    quantizer.codebook.weight.data = torch.randn(6, 4)
    vectors = torch.randn(5, 4)
    before, after = quantizer(vectors), quantizer(7 * vectors + 3)
    assert torch.equal(before.codes, after.codes)
    torch.testing.assert_close(before.loss, after.loss, rtol=1e-3, atol=1e-5)


def test_distances_are_float32_in_bfloat16() -> None:
    """Codes that one bfloat16 step separates are told apart when the vectors are float32."""
    quantizer = VectorQuantizer(2, 1)
    quantizer.codebook.weight.data = torch.tensor([[1.0], [1.0078125]])
    quantizer.bfloat16()
    found = quantizer(torch.tensor([[1.003], [1.005]]))
    assert found.codes.tolist() == [0, 1]
    assert found.vectors.dtype == found.loss.dtype == torch.float32


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_idle_codes_are_restarted_only_when_asked(precision: torch.dtype) -> None:
    """A code that is idle for a while moves onto a vector, even when its weight is written back."""
    vectors = torch.randn(6, 3) + 10
    for restart in (False, True):
        quantizer = VectorQuantizer(5, 3, restart=restart).to(precision).train()
        weight, far = quantizer.codebook.weight.detach().clone(), quantizer.entries.detach().clone()

        for _ in range(RESTART_AFTER_STEPS + 1):
            quantizer(vectors)
            quantizer.after_step()
            # A master copy of the weights does the same.
            quantizer.codebook.weight.data.copy_(weight)

        moved = (quantizer.entries.detach() != far).any(dim=1)
        assert moved.any() == restart
        if restart:
            nearest = torch.cdist(quantizer.entries.detach()[moved], vectors).min(dim=1).values
            assert nearest.max() < 1e-5
            # A restarted code is not idle.
            assert not quantizer.idle_steps[moved].any()


def test_steps_are_counted_and_not_calls() -> None:
    """A code that one of a step's many calls uses is not idle."""
    quantizer = VectorQuantizer(2, 1, restart=True).train()
    quantizer.codebook.weight.data = torch.tensor([[0.0], [5.0]])

    for _ in range(RESTART_AFTER_STEPS + 10):
        for _ in range(3 * RESTART_AFTER_STEPS):
            quantizer(torch.zeros(1, 1))
        quantizer(torch.full((1, 1), 5.0))
        quantizer.after_step()

    assert quantizer.idle_steps.tolist() == [0, 0]
    assert not quantizer.offset.any()


def test_restarts_continue_from_a_saved_state() -> None:
    """A codebook saved in the middle and loaded into another makes the same moves."""
    torch.manual_seed(0)
    steps = [torch.randn(4, 3) for _ in range(2 * RESTART_AFTER_STEPS + 4)]

    def run(quantizer: VectorQuantizer, part: list[torch.Tensor]) -> VectorQuantizer:
        for vectors in part:
            quantizer(vectors)
            quantizer.after_step()
        return quantizer

    first = VectorQuantizer(12, 3, restart=True).train()
    resumed = VectorQuantizer(12, 3, restart=True).train()
    start = {name: value.clone() for name, value in first.state_dict().items()}

    whole = run(first, steps).entries
    resumed.load_state_dict(start)
    saved = {
        n: v.clone() for n, v in run(resumed, steps[:RESTART_AFTER_STEPS]).state_dict().items()
    }

    third = VectorQuantizer(12, 3, restart=True).train()
    third.load_state_dict(saved)

    assert torch.equal(run(third, steps[RESTART_AFTER_STEPS:]).entries, whole)
    assert third.offset.any()


def test_without_training_nothing_is_kept() -> None:
    """Evaluation neither counts steps nor moves codes."""
    quantizer = VectorQuantizer(4, 2, restart=True).eval()
    quantizer(torch.randn(3, 2))
    quantizer.after_step()
    assert quantizer.num_steps == 0


def test_the_loss_moves_codes_by_all_and_vectors_by_the_commitment() -> None:
    """The gradients are those by hand for a vector s and its code z.

    They are 2 (z - s) / C for the code, and 2 (s - z) / C times the commitment for the vector.
    """
    quantizer = VectorQuantizer(2, 2, commitment=0.25)
    quantizer.codebook.weight.data = torch.tensor([[1.0, 0.0], [9.0, 9.0]])
    vectors = torch.tensor([[0.5, 0.25]], requires_grad=True)
    quantizer(vectors).loss.backward()

    assert quantizer.codebook.weight.grad is not None
    torch.testing.assert_close(
        quantizer.codebook.weight.grad, torch.tensor([[0.5, -0.25], [0.0, 0.0]])
    )
    torch.testing.assert_close(vectors.grad, 0.25 * torch.tensor([[-0.5, 0.25]]))
