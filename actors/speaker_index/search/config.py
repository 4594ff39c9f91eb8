"""How the speaker index searches, as options; imports no FAISS, which the help text does not
need.
"""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option

Kind = Literal["auto", "flat", "ivf", "ivf_sq8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexConfig:
    """How vectors are searched."""

    kind: Kind = option(
        default="auto",
        help="flat (exact), ivf or ivf_sq8; auto: flat to 100,000 speakers, ivf to 2,000,000, "
        "ivf_sq8 beyond",
    )
    recall: float = option(
        default=0.97, help="recall@10 that ivf probes for, measured when the index is built"
    )
    gpu: bool = option(default=False, help="search on the GPUs; needs a faiss-gpu wheel")

    def __post_init__(self) -> None:
        if not 0.0 < self.recall <= 1.0:
            raise ConfigError(
                f"recall: got {self.recall}, expected a share, more than 0 and at most 1"
            )
