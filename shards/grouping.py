"""Groups of table rows that share a name."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_rows(names: NDArray[Any]) -> dict[Any, NDArray[np.int64]]:
    """The rows of each distinct name in `names` [N]; the distinct names are sorted."""
    if not len(names):
        return {}

    # Rows are sorted by their name's place, so that rows of one name lie side by side, and are cut
    # where the next name begins. The sort is stable: rows of one name stay in the table's order.
    distinct, places = np.unique(names, return_inverse=True)
    rows = np.split(np.argsort(places, kind="stable"), np.cumsum(np.bincount(places))[:-1])

    return dict(zip(distinct.tolist(), rows, strict=True))
