"""What the heads learn: standardized descriptors and embeddings, sentiments, the bit of energy.

Statistics come from the training utterances alone. A value that is the same for all of them tells
nothing and is left out by its name.

Shapes: N utterances, V values.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.objectives import Objective
from trainers.recipes.multimodal.config import MultimodalConfig

log = logging.getLogger(__name__)
# Of the builtin descriptors, and of openSMILE's.
_LEVELS = ("level_db", "Loudness_sma3")
_MIN_SPREAD = 1e-6  # relative to the size of the values
_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """The targets of one objective: float32 `array` [N, V], NaN where a value is unknown.

    A value of an utterance is (measured - `mean`) / `spread`, both [V]; `values` are their names.
    """

    name: str
    values: tuple[str, ...]
    array: NDArray[np.float32]
    mean: NDArray[np.float32]
    spread: NDArray[np.float32]

    @property
    def width(self) -> int:
        """The number of values V."""
        return self.array.shape[1]


def make_blocks(
    objectives: Mapping[str, Objective], options: MultimodalConfig, is_training: NDArray[np.bool_]
) -> dict[str, Block]:
    """The targets of every objective. `is_training` [N] says which utterances are learned from.

    Raises ConfigError when no value of an objective can be learned.
    """
    blocks = {}
    for name, objective in objectives.items():
        if name == "sentiment":
            blocks[name] = _sentiment(objective, one_hot=options.sentiment == "one_hot")
        elif name == "acoustics" and options.acoustics == "energy":
            blocks[name] = _energy(objective, is_training)
        else:
            blocks[name] = _standardized(objective, is_training)

        _say_what_is_known(blocks[name], is_training)

    return blocks


def digest(blocks: Mapping[str, Block]) -> str:
    """Sixteen hexadecimal digits that change with any target."""
    found = hashlib.sha256()
    for name, block in sorted(blocks.items()):
        found.update(f"{name} {block.values}".encode())
        found.update(np.ascontiguousarray(block.array).tobytes())

    return found.hexdigest()[:16]


def _sentiment(objective: Objective, *, one_hot: bool) -> Block:
    """The likeliest sentiment, of equals the first, or the distribution (Eq. 2)."""
    array = objective.array
    if one_hot:
        likeliest = np.nan_to_num(array, nan=-1.0).argmax(axis=1)
        array = np.where(
            objective.known[:, None], np.eye(array.shape[1])[likeliest], np.nan
        ).astype(np.float32)

    return _as_measured(objective.name, objective.values, array)


def _energy(objective: Objective, is_training: NDArray[np.bool_]) -> Block:
    """1 where the level is above the median of the training utterances, else 0 (Figure 4)."""
    name = next((level for level in _LEVELS if level in objective.values), None)
    if name is None:
        raise ConfigError(
            f"model.acoustics energy: the descriptors of the tables hold none of "
            f"{', '.join(_LEVELS)} (got {', '.join(objective.values[:_MAX_NAMED])}, ...); label "
            "with objectives.acoustics, or use all"
        )

    level = objective.array[:, objective.values.index(name)]
    median = np.nanmedian(level[is_training]) if np.isfinite(level[is_training]).any() else np.nan
    bit = np.where(np.isfinite(level), level > median, np.nan).astype(np.float32)
    return _as_measured(objective.name, (f"{name} above {median:.4g}",), bit[:, None])


def _standardized(objective: Objective, is_training: NDArray[np.bool_]) -> Block:
    """Every value with mean 0 and spread 1 over the training utterances that have it."""
    values = objective.array.astype(np.float64)
    training = values[is_training]
    is_known = np.isfinite(training)
    counts = is_known.sum(axis=0)

    mean = np.where(is_known, training, 0.0).sum(axis=0) / counts.clip(1)
    spread = np.sqrt(
        np.square(np.where(is_known, training - mean, 0.0)).sum(axis=0) / counts.clip(1)
    )

    # What nobody has is kept: its head is there, and learns nothing.
    is_constant = (counts > 0) & (spread <= _MIN_SPREAD * np.maximum(1.0, np.abs(mean)))
    kept = np.flatnonzero(~is_constant)
    _say_what_is_constant(objective, is_constant)

    spread = np.where(counts > 0, spread, 1.0)[kept]
    return Block(
        name=objective.name,
        values=tuple(objective.values[place] for place in kept),
        array=((values[:, kept] - mean[kept]) / spread).astype(np.float32),
        mean=mean[kept].astype(np.float32),
        spread=spread.astype(np.float32),
    )


def _as_measured(name: str, values: tuple[str, ...], array: NDArray[np.float32]) -> Block:
    width = array.shape[1]
    return Block(
        name=name,
        values=values,
        array=array,
        mean=np.zeros(width, dtype=np.float32),
        spread=np.ones(width, dtype=np.float32),
    )


def _say_what_is_constant(objective: Objective, is_constant: NDArray[np.bool_]) -> None:
    names = [objective.values[place] for place in np.flatnonzero(is_constant)]
    if len(names) == len(objective.values):
        raise ConfigError(
            f"--targets: every value of {objective.name} is the same for all training utterances, "
            "so that nothing can be learned from it; give this objective the weight 0"
        )
    if names:
        more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
        log.warning(
            "%s: left out, as they are the same for all training utterances: %s%s",
            objective.name,
            ", ".join(names[:_MAX_NAMED]),
            more,
        )


def _say_what_is_known(block: Block, is_training: NDArray[np.bool_]) -> None:
    known = np.isfinite(block.array[is_training])
    log.info(
        "%s: %d values, known of %d of %d training utterances",
        block.name,
        block.width,
        np.count_nonzero(known.any(axis=1)),
        len(known),
    )
