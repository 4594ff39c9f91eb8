"""P has the published size, and neither the order of utterances nor batchmates change it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.models.personal.speaker_prefix import PersonalizedFeatureExtractor

WIDTH = 16


def make(seed: int = 0, **options: object) -> PersonalizedFeatureExtractor:
    torch.manual_seed(seed)
    small = {"code_width": 8, "num_prefixes": 3, "num_codes": 10}
    return PersonalizedFeatureExtractor(WIDTH, 2, **(small | options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "expected"), [(768, 438_912), (384, 384_768)])
def test_the_size_is_the_published_one(width: int, expected: int) -> None:
    """P has "about 400K" parameters for HuBERT base and VideoMAE small, of 12 layers each."""
    extractor = PersonalizedFeatureExtractor(width, 12)
    assert sum(parameter.numel() for parameter in extractor.parameters()) == expected


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_the_order_of_utterances_does_not_matter(
    sets: list[int], random: object, quantized: bool
) -> None:
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

    numbers = torch.cat(
        [torch.zeros(size), *(torch.full((n,), place + 1) for place, n in enumerate(others))]
    ).long()
    extractor = make()

    alone = extractor(mine, torch.zeros(size, dtype=torch.long), 0).embeddings_BQD[0]
    beside = extractor(torch.cat([mine, rest]), numbers, 0).embeddings_BQD[0]
    torch.testing.assert_close(beside, alone, rtol=1e-4, atol=1e-5)


def test_layers_get_embeddings_of_their_own() -> None:
    """The layer embedding tells the layers apart."""
    extractor, pooled = make(quantized=False), torch.randn(4, WIDTH)
    sets = torch.zeros(4, dtype=torch.long)
    assert not torch.allclose(
        extractor(pooled, sets, 0).embeddings_BQD, extractor(pooled, sets, 1).embeddings_BQD
    )
