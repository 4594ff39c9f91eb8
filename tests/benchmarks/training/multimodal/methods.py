"""What the multimodal benchmark compares: objectives, their weights, and controls.

`WORLD` are the methods of every synthetic world, `WEIGHTS` the further rows of the paper's Table
VI, and `REAL` those of recorded speech, where words tell nothing and O2 is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

BEFORE, STATISTICS, VECTORS = "before training", "spectral statistics", "O1's vectors"
LIBRISPEECH = "librispeech"


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What stands in for an encoder's frames, or how an encoder is adapted.

    `kind` is adapted, random (an encoder before its first step), spectral or vectors (the sound's
    statistics or acoustic descriptors, without any encoder). `weights` are those of O1, O2 and O3;
    `targets` and `pool` name the tables and the sound of stage 1, None being the labeled corpus'
    own pool.
    """

    kind: Literal["adapted", "random", "spectral", "vectors"] = "adapted"
    weights: tuple[float, float, float] = (1.0, 0.5, 1.0)
    targets: Literal["targets", "permuted"] = "targets"
    pool: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_encoder(self) -> bool:
        """Whether there is an encoder, which can be fine-tuned."""
        return self.kind in ("adapted", "random")


O1, O12, O123 = (
    Method(weights=(1.0, 0.0, 0.0)),
    Method(weights=(1.0, 0.5, 0.0)),
    Method(weights=(1.0, 0.5, 1.0)),
)
WORLD: Mapping[str, Method] = {
    BEFORE: Method(kind="random"),
    STATISTICS: Method(kind="spectral"),
    VECTORS: Method(kind="vectors"),
    "energy": Method(weights=O1.weights, model={"acoustics": "energy"}),
    "O1": O1,
    "O1+.5*O2": O12,
    "O1+.5*O2+O3": O123,
    "O1+.5*O2+O3, sums": Method(weights=O123.weights, model={"mse": "sum"}),
    "O1+.5*O2+O3, permuted": Method(weights=O123.weights, targets="permuted"),
}
# Table VI, less the rows that are among the methods of every world.
WEIGHTS: Mapping[str, Method] = {
    "O1+O2": Method(weights=(1.0, 1.0, 0.0)),
    "O1+10*O2": Method(weights=(1.0, 10.0, 0.0)),
    "10*O1+O2": Method(weights=(10.0, 1.0, 0.0)),
    ".5*O1+O2": Method(weights=(0.5, 1.0, 0.0)),
    "O1+O2+O3": Method(weights=(1.0, 1.0, 1.0)),
    "O1+1.5*O2+O3": Method(weights=(1.0, 1.5, 1.0)),
}
REAL: Mapping[str, Method] = {
    BEFORE: Method(kind="random"),
    STATISTICS: Method(kind="spectral"),
    VECTORS: Method(kind="vectors"),
    "O1": O1,
    "O1+O3": Method(weights=(1.0, 0.0, 1.0)),
    "O1 of LibriSpeech": Method(weights=O1.weights, pool=LIBRISPEECH),
}
METHODS: Mapping[str, Method] = {**WORLD, **WEIGHTS, **REAL}
