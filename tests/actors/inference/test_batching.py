import itertools

from hypothesis import given
from hypothesis import strategies as st

from actors.inference.batching import plan_batches

lengths = st.lists(st.integers(1, 500), max_size=60)
budgets = st.integers(0, 2_000)


@given(lengths, budgets, st.booleans())
def test_every_item_is_in_exactly_one_batch(lengths: list[int], budget: int, equal: bool) -> None:
    """Batches partition the items, whatever the budget."""
    batches = plan_batches(lengths, budget=budget, equal_lengths=equal)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))


@given(lengths, budgets, st.booleans())
def test_padded_size_stays_within_the_budget(lengths: list[int], budget: int, equal: bool) -> None:
    """Longest item times batch size is at most the budget, unless one item alone exceeds it."""
    for batch in plan_batches(lengths, budget=budget, equal_lengths=equal):
        assert len(batch) == 1 or max(lengths[index] for index in batch) * len(batch) <= budget


@given(lengths, budgets)
def test_equal_lengths_never_need_padding(lengths: list[int], budget: int) -> None:
    """With equal_lengths a batch holds items of one length."""
    for batch in plan_batches(lengths, budget=budget, equal_lengths=True):
        assert len({lengths[index] for index in batch}) == 1


@given(lengths, budgets)
def test_no_two_neighboring_batches_would_fit_in_one(lengths: list[int], budget: int) -> None:
    """Batches are filled before another is opened."""
    batches = plan_batches(lengths, budget=budget)
    for first, second in itertools.pairwise(batches):
        assert lengths[first[0]] * (len(first) + 1) > budget
        assert lengths[second[0]] <= lengths[first[-1]]


def test_a_hand_computed_plan() -> None:
    """Of lengths 5, 1, 4, 4, 2 a budget of 9 takes 5 alone, both 4s (cost 8), then 2 and 1."""
    assert plan_batches([5, 1, 4, 4, 2], budget=9) == [[0], [2, 3], [4, 1]]


def test_no_budget_means_one_at_a_time() -> None:
    """A budget of 0, as a CPU has it, makes batches of one item."""
    assert plan_batches([3, 3, 3], budget=0) == [[0], [1], [2]]
