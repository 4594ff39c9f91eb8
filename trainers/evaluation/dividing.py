"""Which splits an evaluated corpus has: those of the model's folds, and none that it has heard.

A model that was trained on folds is measured on the fold that it left out, so the folds are made
anew, as its checkpoint describes them.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from shards.config import ConfigError
from shards.loading.folds import AS_STATED, divided
from shards.loading.index import CorpusIndex
from shards.loading.shared_speakers import require_unshared
from trainers.evaluation.config import EvaluateConfig

# What a checkpoint says of its training.
TrainedOn = Mapping[str, Any]


def divided_as_trained(
    config: EvaluateConfig, trained_on: TrainedOn, corpus: CorpusIndex
) -> CorpusIndex:
    """`corpus` with the splits that the model was trained with.

    Raises ConfigError when the model, or one that it started from, was trained on another division
    of this corpus, or when a speaker is in several splits and nothing allows it.
    """
    folds, fold = _division(trained_on)
    if trained_on.get("corpus") != corpus.digest:
        folds, fold = _of_another_corpus(config, folds)
    elif config.other_corpus:
        raise ConfigError(
            f"--other-corpus: the model was trained on these very shards ({config.shards}), "
            "expected those of another corpus; give others, or leave the option out"
        )

    corpus_here = divided(corpus, folds, fold)
    for start in _starts(trained_on):
        if start.get("corpus") == corpus.digest and _division(start) != (folds, fold):
            raise ConfigError(
                "--checkpoint: the model started from one that was trained on "
                f"{_shown(*_division(start))} of these shards, and went on with "
                f"{_shown(folds, fold)}, so it has heard some of the speakers that would "
                "be measured; train both on the same fold"
            )

    if not (config.allow_shared_speakers or trained_on.get("allow_shared_speakers")):
        require_unshared(corpus_here, "--allow-shared-speakers")
    return corpus_here


def _of_another_corpus(config: EvaluateConfig, folds: str) -> tuple[str, int]:
    """The division of shards that the model was not trained on: their own."""
    if folds != AS_STATED and not config.other_corpus:
        raise ConfigError(
            f"--shards {config.shards}: the model was trained on folds ({folds}) of other shards, "
            "or of these before they changed; give the shards it was trained on, or say "
            "--other-corpus, which measures on the splits that the json states"
        )
    return AS_STATED, 0


def _division(trained_on: TrainedOn) -> tuple[str, int]:
    """The folds and the fold; the stated splits for models of before 2026-11-28."""
    return str(trained_on.get("folds", AS_STATED)), int(trained_on.get("fold", 0))


def _starts(trained_on: TrainedOn) -> Iterator[TrainedOn]:
    while trained_on := trained_on.get("start", {}):
        yield trained_on


def _shown(folds: str, fold: int) -> str:
    return "the stated splits" if folds == AS_STATED else f"fold {fold} of {folds}"
