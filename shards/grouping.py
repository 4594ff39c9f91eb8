"""Rows of a table by a name that they share."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_rows(names: NDArray[Any]) -> dict[Any, NDArray[np.int64]]:
    """The rows of each distinct one of `names` [N], in the names' order."""
    if not len(names):
        return {}
    distinct, places = np.unique(names, return_inverse=True)
    rows = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])
    return dict(zip(distinct.tolist(), rows, strict=True))
