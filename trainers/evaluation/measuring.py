"""Measures a trained recognizer on a split: its answers are predicted, calibrated and scored.

A row is the number of an utterance within one index, from 0. Taking some utterances out of an index
makes a smaller index, in which they have other rows. These are the indices used here:

    corpus             all utterances of the shards
    split              the utterances of the split
    index              those of the split that are predicted; `_measured` may leave some out
    index.take(known)  those of `index` that have a usable truth; `known` holds rows of `index`

Shapes: N utterances of `index`, W classes or values, D width.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.loading.index import CorpusIndex, read_index
from shards.loading.known_speakers import known_utterances
from shards.loading.shared_speakers import speakers_in_several_splits
from shards.loading.targets import Targets
from shards.speakers.pldc import calibrate_speakers
from shards.speakers.statistics import build_speakers
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.dividing import divided_as_trained
from trainers.evaluation.fairness.document import judge
from trainers.evaluation.fairness.grouping import divide
from trainers.evaluation.groups import bias_over_groups, figures_of_groups
from trainers.evaluation.pooling import (
    pooled_index,
    pooled_predictions,
    pooled_truth,
    require_same_target,
)
from trainers.evaluation.predicting import (
    Predicted,
    Recognizer,
    can_support,
    labels_learned,
    load_recognizer,
    predict,
    seconds_heard,
    target_answered,
    utterances_learned,
)
from trainers.evaluation.shared_classes import shared_classes
from trainers.evaluation.start_distance import (
    describe_distances,
    distances_from_start,
    load_start,
)
from trainers.evaluation.target import Target
from trainers.models.trained import Trained


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation found about the utterances of `index`.

    `truth` are the targets that answers are compared with. `predicted` is what the model answered.
    `answers` [N, W] are its scores, after calibration if `--pldc` asked for it. `metrics` is the
    content of metrics.json. `colors` are the fields of the samples' json by which the page colors
    its map, one text per utterance. `start_distances` [N] say how far each utterance's embedding is
    from that of the encoder that training started from; None without `--start`.
    """

    index: CorpusIndex
    colors: Mapping[str, Sequence[str | None]]
    target: Target
    truth: Targets
    predicted: Predicted
    answers: NDArray[np.float32]
    metrics: dict[str, Any]
    start_distances: NDArray[np.float64] | None = None


def measure(config: EvaluateConfig) -> Measured:
    """Predict the split of `config`, and compare the answers with the truth.

    Several checkpoints are measured together, each on its own split. Raises ConfigError as
    `_measure_one` does, and when two models tested the same utterance or have different targets.
    """
    if len(config.checkpoint) == 1:
        return _measure_one(config)

    # Groups are formed of the utterances of all models, so no part needs its own.
    parts = [
        _measure_one(replace(config, checkpoint=(checkpoint,), groups=()))
        for checkpoint in config.checkpoint
    ]
    return _pooled(config, parts)


def _pooled(config: EvaluateConfig, parts: Sequence[Measured]) -> Measured:
    """The answers of all models as one evaluation."""
    truth_names = [part.metrics["truth"] for part in parts]
    require_same_target([part.target for part in parts], truth_names)
    index, target = pooled_index([part.index for part in parts]), parts[0].target
    truth = pooled_truth([part.truth for part in parts])
    answers = np.concatenate([part.answers for part in parts])
    predicted = pooled_predictions([part.predicted for part in parts])

    known = np.flatnonzero(truth.known)
    metrics = _metrics(config, target, index.take(known), answers[known], truth_names[0])
    metrics |= {
        "num_left_out": sum(part.metrics["num_left_out"] for part in parts),
        "num_without_truth": len(index) - len(known),
        "unknown_truths": target.unknown_truths(index),
        "split_digest": index.digest,
        "num_shared_speakers": max(part.metrics["num_shared_speakers"] for part in parts),
        "num_models": len(parts),
        "num_parameters": parts[0].metrics["num_parameters"],
    }
    distances = _pooled_distances(parts)
    if distances is not None:
        metrics["start"] = describe_distances(config, distances, index.speaker_of_rows)
    if predicted.answered_from is not None:
        metrics["answered_from"] = dict(Counter(predicted.answered_from.tolist()))
    colors = {
        name: [text for part in parts for text in part.colors[name]] for name in config.color_by
    }

    return Measured(index, colors, target, truth, predicted, answers, metrics, distances)


def _pooled_distances(parts: Sequence[Measured]) -> NDArray[np.float64] | None:
    found = [part.start_distances for part in parts if part.start_distances is not None]
    return np.concatenate(found) if found else None


def _measure_one(config: EvaluateConfig) -> Measured:
    """Measure one model, and how far its encoder is from `--start`.

    Raises ConfigError as `_measure_answers` and `load_start` do.
    """
    trained = load_recognizer(config.checkpoint[0])
    start = load_start(config, trained.model)
    measured = _measure_answers(config, trained)
    if start is None:
        return measured

    distances = distances_from_start(trained.model, start, measured.index)
    found = describe_distances(config, distances, measured.index.speaker_of_rows)
    return replace(measured, metrics=measured.metrics | {"start": found}, start_distances=distances)


def _measure_answers(config: EvaluateConfig, trained: Trained) -> Measured:
    """Measure the answers of one model.

    Raises ConfigError when no utterance can be measured, when the model was trained on utterances
    that would be measured, or when its answers are not finite.
    """
    _require_unheard(config, trained.model)
    corpus = divided_as_trained(config, trained.model.config.trained_on, read_index(config.shards))
    split = corpus.split(config.split)
    index = _measured(config, split)
    colors = _colors(config, index)

    target = _target_answered(config, trained.model)
    shared = shared_classes(config, target, corpus, index)
    target = target if shared is None else shared.target
    truth, truth_name = target.truth(index)
    known = np.flatnonzero(truth.known)
    if not len(known):
        raise ConfigError(
            f"--split {config.split}: no utterance has one of {', '.join(target.names)} as its "
            "truth, which is what this model answers; give another --split, or other --shards"
        )

    # Utterances without a usable truth are predicted too: they may be in sets and in support like
    # any other. Only the figures below leave them out.
    predicted = predict(
        trained, index, set_size=config.set_size, support=config.support, seed=config.seed
    )
    answers = predicted.scores
    if config.pldc is not None:
        answers = _calibrated(config, trained, corpus, index, predicted)
    if shared is not None:
        answers = shared.scores(answers)
    _require_numbers(config, index, answers)

    # `known` selects the same utterances from the index and from the answers, so that row i of one
    # still belongs to row i of the other.
    metrics = _metrics(config, target, index.take(known), answers[known], truth_name)
    metrics |= {
        "num_left_out": len(split) - len(index),
        "num_without_truth": len(index) - len(known),
        "unknown_truths": target.unknown_truths(index),
        "split_digest": split.digest,
        "num_shared_speakers": len(speakers_in_several_splits(corpus)),
    }
    if shared is not None:
        metrics["other_corpus"] = shared.described(predicted.scores, known)
    metrics["num_parameters"] = sum(part.numel() for part in trained.model.parameters())
    if predicted.answered_from is not None:
        metrics["answered_from"] = dict(Counter(predicted.answered_from.tolist()))
    if predicted.codes is not None:
        metrics["codes_used"] = len(predicted.codes)
    return Measured(index, colors, target, truth, predicted, answers, metrics)


def _target_answered(config: EvaluateConfig, model: Recognizer) -> Target:
    """What the model answers, as the options want it scored."""
    target = target_answered(model, config.f1_over, config.stimulus)
    if config.stimulus is not None and target.kind != "ratings":
        raise ConfigError(
            f"--stimulus {config.stimulus}: this model was not trained on ratings but on "
            f"data.target.kind {target.learned.kind}; leave the option out"
        )
    return target


def _require_unheard(config: EvaluateConfig, model: Recognizer) -> None:
    """Raise ConfigError when the model would be measured on utterances that it was trained on."""
    heard = seconds_heard(model, config.split)
    if heard and heard != config.known_seconds:
        raise ConfigError(
            f"--known-seconds: got {config.known_seconds:g}, but this model was trained on "
            f"{heard:g} s of each speaker of {config.split}; give --known-seconds {heard:g}, which "
            "leaves these seconds out"
        )


def _measured(config: EvaluateConfig, index: CorpusIndex) -> CorpusIndex:
    """The utterances of a split that are measured."""
    chosen = np.ones(len(index), dtype=bool)
    if config.known_seconds:
        chosen &= ~known_utterances(index, config.known_seconds)

    # A support can only be made of utterances that are still chosen, so `can_support` gets a
    # smaller index of these alone. Its answers are in the order of that index, and go back to the
    # rows at which `chosen` is true. For example, with `chosen` = [True, False, True] there are two
    # answers, the first for row 0 and the second for row 2.
    if config.support == "disjoint":
        chosen[np.flatnonzero(chosen)] = can_support(index.take(np.flatnonzero(chosen)))
    if not chosen.any():
        raise ConfigError(
            f"--support disjoint: every speaker of {config.split} has only one utterance to "
            "measure, expected at least two for some speaker; give another --support"
        )

    return index.take(np.flatnonzero(chosen))


def _colors(config: EvaluateConfig, index: CorpusIndex) -> dict[str, list[str | None]]:
    """The texts of each field of `--color-by`, one per utterance.

    Raises ConfigError for a field that no utterance has.
    """
    colors = {name: index.texts(name) for name in config.color_by}
    for name, texts in colors.items():
        if not any(texts):
            known = ", ".join(json.loads(index.table["json"][0].as_py()))
            raise ConfigError(
                f"--color-by {name}: no utterance has this field in its json; the first one has "
                f"the fields {known}; give one of these"
            )

    return colors


def _require_numbers(
    config: EvaluateConfig, index: CorpusIndex, answers: NDArray[np.float32]
) -> None:
    wrong = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if len(wrong):
        raise ConfigError(
            f"--checkpoint {config.checkpoint[0]}: answered with NaN or infinity to "
            f"{len(wrong)} of {len(index)} utterances, such as {index.keys(wrong[:1])[0]}; "
            "train it again, in float32 or with a lower learning rate"
        )


def _calibrated(
    config: EvaluateConfig,
    trained: Trained,
    corpus: CorpusIndex,
    index: CorpusIndex,
    found: Predicted,
) -> NDArray[np.float32]:
    """The scores of `found`, calibrated by training speakers of the same shards.

    This is PLDC (papt-pldc, Eq. 3). `found` was predicted for the utterances of `index`.
    """
    assert config.pldc is not None  # noqa: S101 (the caller has checked it)

    # The labels are read twice: first to find the utterances that have one, and again for these
    # utterances alone, because `take` has given them new rows.
    train = utterances_learned(trained.model, corpus)
    train = train.take(np.flatnonzero(labels_learned(trained.model, train).known))
    labels = labels_learned(trained.model, train)

    # Speakers are compared by features of the same model, so training speakers are predicted too.
    features = predict(trained, train, set_size=config.set_size, seed=config.seed).features
    table = build_speakers(lambda: [(train.speaker_of_rows, features, labels.array)], labels.names)
    calibrated = calibrate_speakers(
        table,
        index.speaker_of_rows,
        found.features,
        found.scores,
        neighbors=config.neighbors,
        mode=config.pldc,
    )
    return calibrated.astype(np.float32)


def _metrics(
    config: EvaluateConfig,
    target: Target,
    index: CorpusIndex,
    answers: NDArray[np.float32],
    truth_name: str,
) -> dict[str, Any]:
    """The figures as metrics.json holds them; the truth of all utterances of `index` is known."""
    truth, _ = target.truth(index)
    speakers = index.speaker_of_rows
    scores = target.score(truth, answers, speakers)
    details = asdict(scores)

    # Tables go beside the figures and not among them, so that `scores` holds figures only.
    lists: dict[str, Any] = {
        name: details.pop(name) for name in ("per_speaker", "confusion") if name in details
    }
    number = details.pop("number")
    groupings = [divide(index, field) for field in config.groups]
    groups = figures_of_groups(target, truth, answers, index, groupings, seed=config.seed)
    judged = judge(target.one_vs_rest(truth, answers), groupings, speakers, target, config.seed)

    return {
        "number": number,
        "num_speakers": len(lists["per_speaker"]),
        "truth": truth_name,
        "names": list(target.names),
        "scores": details,
        "intervals": target.intervals(scores, truth, answers, speakers, seed=config.seed),
        **lists,
        "groups": groups,
        "group_bias": {
            grouping.field: bias_over_groups(
                target, groups[grouping.field], judged.left_out[grouping.field]
            )
            for grouping in groupings
        },
        **judged.document,
        "config": to_mapping(config),
    }
