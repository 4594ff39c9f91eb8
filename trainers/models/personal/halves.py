"""Halves of speakers' sets, which SetPeER's L_NCE compares (setpeer-emoceleb, Eq. 7).

Shapes: N utterances, B sets.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Halves:
    """Two disjoint, equal halves of each set of at least two utterances.

    Each half is numbered as a set of its own: first `num_sets` first halves (0, 1, ...), then the
    second halves in the same order. All layers of a pass use the same halves. A set of an odd
    number of utterances leaves one of them out.
    """

    rows: Tensor
    numbers: Tensor
    num_sets: int


def halve(sets_N: Tensor, source_N: Tensor) -> Halves:
    """Draw random halves of the sets from the utterances where `source_N` is true."""
    # Why shuffle first: the stable sort keeps the random order inside each set.
    rows = torch.nonzero(source_N).flatten()
    rows = rows[torch.randperm(len(rows), device=rows.device)]
    rows = rows[sets_N[rows].argsort(stable=True)]

    sizes_B = torch.bincount(sets_N[rows])
    # The place of each utterance in its own set: its position less the sizes of the sets before.
    place = (
        torch.arange(len(rows), device=rows.device) - (sizes_B.cumsum(0) - sizes_B)[sets_N[rows]]
    )

    half = (sizes_B // 2)[sets_N[rows]]
    # Sets of one utterance have no halves, so the sets that have some are numbered anew.
    number_B = (sizes_B > 1).cumsum(0) - 1
    num_sets = int((sizes_B > 1).sum())

    kept = place < 2 * half
    numbers = number_B[sets_N[rows]] + num_sets * (place >= half)
    return Halves(rows[kept], numbers[kept], num_sets)
