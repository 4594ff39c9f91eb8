"""Length-bucketed batches under a budget.

A batch costs the length of its longest item times its size, padding included. Items are taken in
order of length, so that neighbors pad each other little, and the longest first, so that a batch
that does not fit the memory fails at once. First-fit packing was left out: it fills batches a
little better but mixes lengths, which costs more in padding than it saves.
"""

from collections.abc import Sequence


def plan_batches(
    lengths: Sequence[int], *, budget: int, equal_lengths: bool = False
) -> list[list[int]]:
    """Indices of `lengths` in batches whose longest length times size is at most `budget`.

    An item longer than the budget is a batch of its own. With `equal_lengths` all items of a batch
    have one length, for models that padding would disturb. Every index is in exactly one batch, and
    equal input gives equal output.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        batch = batches[-1] if batches else []
        longest = lengths[batch[0]] if batch else 0
        fits = bool(batch) and longest * (len(batch) + 1) <= budget

        if fits and not (equal_lengths and lengths[index] != longest):
            batch.append(index)
        else:
            batches.append([index])

    return batches
