"""Joins trained branches: loads them, sees that they belong together, and keeps them.

Branches that hear with the same encoder share it: its states are computed once. Encoders that were
trained with their branches differ, and each branch keeps its own.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shards.config import ConfigError
from shards.loading.folds import AS_STATED
from trainers.models.two_stage.configuration import TwoStageConfig
from trainers.models.two_stage.loading import load_two_stage
from trainers.models.two_stage.recognizer import TwoStageRecognizer
from trainers.recipes.recipe import Run
from trainers.recipes.two_stage.config import FOLD_PLACE, TwoStageOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedBranch:
    """A model of one branch, and the folder that it was loaded from."""

    folder: str
    model: TwoStageRecognizer


def load_branches(run: Run, options: TwoStageOptions, corpus_digest: str) -> list[TrainedBranch]:
    """The branches that the options name.

    Raises ConfigError for a folder that is no model of one branch, for branches of different
    classes or widths, and for one that has learned from what this run tests.
    """
    folders = [path.replace(FOLD_PLACE, str(run.data.fold)) for path in options.branches]
    found = [TrainedBranch(folder, _one_branch(folder)) for folder in folders]

    for branch in found[1:]:
        for what, of in (("classes", _names), ("width", _width)):
            if of(branch) != of(found[0]):
                raise ConfigError(
                    f"model.branches {branch.folder}: got a branch of {what} {of(branch)}, "
                    f"expected {of(found[0])}, as in {found[0].folder}; train them with the same "
                    "options"
                )
    for branch in found:
        _require_same_division(branch, run, corpus_digest)

    return found


def joined(
    branches: Sequence[TrainedBranch], options: TwoStageOptions, **described: Any
) -> TwoStageRecognizer:
    """A model of these branches, which are kept as they are.

    `described` are further fields of its configuration.
    """
    encoders, places = _distinct_encoders([branch.model for branch in branches])
    sizes = [
        branch.model.config.branches[0] | {"encoder": place}
        for branch, place in zip(branches, places, strict=True)
    ]
    model = TwoStageRecognizer(
        TwoStageConfig(
            encoders=[encoder.model.config.to_dict() for encoder in encoders],
            normalizes=[encoder.normalizes for encoder in encoders],
            branches=sizes,
            fusion=options.join,
            num_shared_layers=options.num_shared_layers,
            head_width=options.head_width,
            dropout_probability=options.dropout,
            **described,
        )
    )

    for own, encoder in zip(model.encoders, encoders, strict=True):
        own.load_state_dict(encoder.state_dict())
    for own, branch in zip(model.branches, branches, strict=True):
        own.load_state_dict(branch.model.branches[0].state_dict())
    model.keep(*model.encoders, *model.branches)
    return model


def _one_branch(folder: str) -> TwoStageRecognizer:
    model = load_two_stage(folder, option="model.branches")
    if len(model.branches) != 1:
        raise ConfigError(
            f"model.branches {folder}: got a model of {len(model.branches)} branches, expected "
            "one; name the exports of runs with model.inputs=audio or face"
        )
    return model


def _distinct_encoders(models: Sequence[TwoStageRecognizer]) -> tuple[list[Any], list[int | None]]:
    """Every encoder once, and for each model the place of its own; None for a branch of faces."""
    encoders: list[Any] = []
    places: list[int | None] = []
    for model in models:
        if not model.encoders:
            places.append(None)
            continue

        (own,) = model.encoders
        same = [place for place, other in enumerate(encoders) if _are_equal(own, other)]
        places.append(same[0] if same else len(encoders))
        if not same:
            encoders.append(own)

    return encoders, places


def _are_equal(first: nn.Module, second: nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[name]) for name, tensor in mine.items()
    )


def _require_same_division(branch: TrainedBranch, run: Run, corpus_digest: str) -> None:
    """Raise ConfigError for a branch that was trained on another fold of the corpus."""
    trained_on: Mapping[str, Any] = branch.model.config.trained_on
    before = trained_on.get("folds", AS_STATED), trained_on.get("fold", 0)
    now = run.data.folds, run.data.fold
    if before != now and {before[0], now[0]} != {AS_STATED}:
        raise ConfigError(
            f"model.branches {branch.folder}: got a branch trained with data.folds={before[0]} and "
            f"data.fold={before[1]}, expected {now[0]} and {now[1]}, as in this run: it would know "
            f"utterances that are tested; give the branches of this fold, such as "
            f"{_with_place(branch.folder)}"
        )

    if trained_on.get("corpus") != corpus_digest:
        log.warning(
            "model.branches %s: was trained on another corpus; if that holds speakers of this "
            "one's splits validation and test, figures are too good",
            branch.folder,
        )


def _with_place(folder: str) -> str:
    """An example of a path for all folds."""
    return str(Path("runs/1") / f"fold-{FOLD_PLACE}" / Path(folder).name)


def _names(branch: TrainedBranch) -> str:
    return ", ".join(branch.model.config.names)


def _width(branch: TrainedBranch) -> str:
    return str(branch.model.config.branch_configs[0].hidden_size)
