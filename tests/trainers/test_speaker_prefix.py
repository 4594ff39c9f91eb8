"""P and its codebook: the published size, no order, no batchmates, and the look-up done by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.models.speaker_prefix import PersonalizedFeatureExtractor
from trainers.models.vector_quantizer import RESTART_AFTER_STEPS, VectorQuantizer

WIDTH = 16


def make(seed: int = 0, **options: object) -> PersonalizedFeatureExtractor:
    torch.manual_seed(seed)
    small = {"code_width": 8, "num_prefixes": 3, "num_codes": 10}
    return PersonalizedFeatureExtractor(WIDTH, 2, **(small | options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "expected"), [(768, 438_912), (384, 384_768)])
def test_the_size_is_the_published_one(width: int, expected: int) -> None:
    """ "About 400K" for HuBERT base and VideoMAE small, 12 layers each."""
    extractor = PersonalizedFeatureExtractor(width, 12)
    assert sum(parameter.numel() for parameter in extractor.parameters()) == expected


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.randoms(use_true_random=False), st.booleans())
def test_the_order_of_utterances_does_not_matter(sets: list[int], random: object, quantized: bool) -> None:
    """Any permutation of the rows, sets interleaved or not, gives the same embeddings."""
    renumbered = torch.tensor([sorted(set(sets)).index(number) for number in sets])
    pooled = torch.randn(len(sets), WIDTH, generator=torch.Generator().manual_seed(len(sets)))
    order = list(range(len(sets)))
    random.shuffle(order)  # type: ignore[attr-defined]
    extractor = make(quantized=quantized)
    before = extractor(pooled, renumbered, 1).embeddings_BQD
    after = extractor(pooled[order], renumbered[order], 1).embeddings_BQD
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 6), max_size=4))
def test_other_sets_do_not_matter(size: int, others: list[int]) -> None:
    """A set alone and beside larger or smaller ones has the same embeddings."""
    generator = torch.Generator().manual_seed(size)
    mine = torch.randn(size, WIDTH, generator=generator)
    rest = torch.randn(sum(others), WIDTH, generator=generator)
    numbers = torch.cat([torch.zeros(size), *(torch.full((n,), place + 1) for place, n in enumerate(others))]).long()
    extractor = make()
    alone = extractor(mine, torch.zeros(size, dtype=torch.long), 0).embeddings_BQD[0]
    beside = extractor(torch.cat([mine, rest]), numbers, 0).embeddings_BQD[0]
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5)


def test_layers_get_embeddings_of_their_own() -> None:
    """The layer embedding tells the layers apart."""
    extractor, pooled = make(quantized=False), torch.randn(4, WIDTH)
    sets = torch.zeros(4, dtype=torch.long)
    assert not torch.allclose(extractor(pooled, sets, 0).embeddings_BQD, extractor(pooled, sets, 1).embeddings_BQD)


def test_a_vector_becomes_its_nearest_code() -> None:
    """By hand: codes (0,0), (1,0), (0,2); loss = mean squared distance times 1 + commitment."""
    quantizer = VectorQuantizer(3, 2, commitment=0.25)
    quantizer.codebook.data = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    found = quantizer(torch.tensor([[0.9, 0.1], [0.1, 1.4]]))
    assert found.codes.tolist() == [1, 2]
    torch.testing.assert_close(found.vectors, torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    squared = (0.1**2 + 0.1**2 + 0.1**2 + 0.6**2) / 4
    torch.testing.assert_close(found.loss, torch.tensor(1.25 * squared))


def test_gradients_pass_straight_through() -> None:
    """What reaches the vectors is the gradient of the output; codes move by the loss alone."""
    quantizer = VectorQuantizer(4, 3)
    vectors = torch.randn(5, 3, requires_grad=True)
    upstream = torch.randn(5, 3)
    (quantizer(vectors).vectors * upstream).sum().backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(vectors.grad, upstream)
    assert quantizer.codebook.grad is None
    quantizer(torch.randn(5, 3)).loss.backward()
    assert quantizer.codebook.grad is not None
    assert quantizer.codebook.grad.abs().sum() > 0


def test_idle_codes_are_restarted_only_when_asked() -> None:
    """A code that nothing was near for a while moves onto a vector of the batch."""
    vectors = torch.randn(6, 3) + 10
    for restart in (False, True):
        quantizer = VectorQuantizer(5, 3, restart=restart).train()
        far = quantizer.codebook.detach().clone()
        for _ in range(RESTART_AFTER_STEPS + 2):
            quantizer(vectors)
        moved = (quantizer.codebook.detach() != far).any(dim=1)
        assert moved.any() == restart
        if restart:
            nearest = torch.cdist(quantizer.codebook.detach()[moved], vectors).min(dim=1).values
            assert nearest.max() < 1e-5
