"""Options of how the speaker index searches.

This module imports no FAISS, so that `emostream serve --help` starts without it.
"""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option

Kind = Literal["auto", "flat", "ivf", "ivf_sq8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """Options of how vectors are searched."""

    kind: Kind = option(
        default="auto",
        help="Kind of index. flat: exact; ivf: approximate, and faster for many speakers; ivf_sq8: "
        "ivf with 8 bits for each number; auto: flat up to 100,000 speakers, ivf up to 2,000,000, "
        "ivf_sq8 beyond.",
    )
    recall: float = option(
        default=0.97,
        help="Share of the 10 nearest speakers that an ivf index must find (recall@10), measured "
        "when the index is built.",
    )
    gpu: bool = option(default=False, help="Search on the GPUs. Needs a faiss-gpu wheel.")

    def __post_init__(self) -> None:
        if not 0.0 < self.recall <= 1.0:
            raise ConfigError(
                f"recall: got {self.recall}, expected a share above 0 and up to 1, such as 0.97"
            )
