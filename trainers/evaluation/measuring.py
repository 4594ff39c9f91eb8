"""A trained recognizer measured on a split: predicted, calibrated where asked for, and compared
with what is true.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.loading.index import CorpusIndex, read_index
from shards.loading.known_speakers import known_utterances
from shards.loading.targets import Targets
from shards.speakers.pldc import calibrate_speakers
from shards.speakers.statistics import build_speakers
from trainers.evaluation.config import EvaluateConfig
from trainers.evaluation.predicting import (
    Predicted,
    can_support,
    labels_learned,
    load_recognizer,
    predict,
    seconds_heard,
    target_answered,
    utterances_learned,
)
from trainers.evaluation.targets import Target
from trainers.models.recognizer import EmotionRecognizer
from trainers.models.trained import TrainedRecognizer


@dataclass(frozen=True, slots=True)
class Measured:
    """What an evaluation found: the measured utterances, their truth, what was predicted of them,
    and the figures.

    `answers` [N, W] are the predictions, calibrated where that was asked for. `metrics` is what
    metrics.json holds, `colors` the fields of the json that the page's map is colored by.
    """

    index: CorpusIndex
    colors: Mapping[str, Sequence[str | None]]
    target: Target
    truth: Targets
    predicted: Predicted
    answers: NDArray[np.float32]
    metrics: dict[str, Any]


def measure(config: EvaluateConfig) -> Measured:
    """Predict and compare.

    Raises ConfigError when there is nothing to measure, or the model was trained on it.
    """
    trained = load_recognizer(config.checkpoint)
    _require_unheard(config, trained.model)
    corpus = read_index(config.shards)
    split = corpus.split(config.split)
    index = _measured(config, split)
    colors = _colors(config, index)

    target = target_answered(trained.model)
    truth, truth_name = target.truth(index)
    known = np.flatnonzero(truth.known)
    if not len(known):
        raise ConfigError(
            f"--split {config.split}: no utterance has one of {', '.join(target.names)} as its "
            "truth"
        )

    # All utterances of a speaker may support; those without a usable truth are only not counted.
    predicted = predict(
        trained, index, set_size=config.set_size, support=config.support, seed=config.seed
    )
    answers = predicted.scores
    if config.pldc is not None:
        answers = _calibrated(config, trained, corpus, index, predicted)
    _require_numbers(config, index, answers)

    metrics = _metrics(config, target, index.take(known), answers[known], truth_name)
    metrics |= {
        "num_left_out": len(split) - len(index),
        "num_without_truth": len(index) - len(known),
        "split_digest": split.digest,
    }
    if predicted.codes is not None:
        metrics["codes_used"] = len(predicted.codes)
    return Measured(index, colors, target, truth, predicted, answers, metrics)


def _require_unheard(config: EvaluateConfig, model: EmotionRecognizer) -> None:
    """Raise ConfigError when the model would be measured on what it was trained on."""
    heard = seconds_heard(model, config.split)
    if heard and heard != config.known_seconds:
        raise ConfigError(
            f"--known-seconds: got {config.known_seconds:g}, but this model was trained on "
            f"{heard:g} s of each speaker of {config.split}; give --known-seconds {heard:g}, which "
            "leaves them out"
        )


def _measured(config: EvaluateConfig, index: CorpusIndex) -> CorpusIndex:
    """The utterances of a split to measure on."""
    chosen = np.ones(len(index), dtype=bool)
    if config.known_seconds:
        chosen &= ~known_utterances(index, config.known_seconds)
    if config.support == "disjoint":
        chosen[np.flatnonzero(chosen)] = can_support(index.take(np.flatnonzero(chosen)))
    if not chosen.any():
        raise ConfigError(
            f"--support disjoint: every speaker of {config.split} has one utterance only"
        )

    return index.take(np.flatnonzero(chosen))


def _colors(config: EvaluateConfig, index: CorpusIndex) -> dict[str, list[str | None]]:
    """Fields of the json, as text. Raises ConfigError for one that no utterance has."""
    colors = {name: index.texts(name) for name in config.color_by}
    for name, texts in colors.items():
        if not any(texts):
            known = ", ".join(json.loads(index.table["json"][0].as_py()))
            raise ConfigError(
                f"--color-by {name}: no utterance has it in its json, where one holds {known}"
            )

    return colors


def _require_numbers(
    config: EvaluateConfig, index: CorpusIndex, answers: NDArray[np.float32]
) -> None:
    wrong = np.flatnonzero(~np.isfinite(answers).all(axis=1))
    if len(wrong):
        raise ConfigError(
            f"--checkpoint {config.checkpoint}: answered with NaN or infinity to {len(wrong)} of "
            f"{len(index)} utterances, such as {index.keys(wrong[:1])[0]}; train it again, in "
            "float32 or with a lower learning rate"
        )


def _calibrated(
    config: EvaluateConfig,
    trained: TrainedRecognizer,
    corpus: CorpusIndex,
    index: CorpusIndex,
    found: Predicted,
) -> NDArray[np.float32]:
    """PLDC by the training speakers of the same shards (papt-pldc, Eq. 3)."""
    assert config.pldc is not None  # noqa: S101 (the caller asked)
    train = utterances_learned(trained.model, corpus)
    train = train.take(np.flatnonzero(labels_learned(trained.model, train).known))
    labels = labels_learned(trained.model, train)

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
    """The figures of utterances whose truth is known, as metrics.json holds them."""
    truth, _ = target.truth(index)
    details = asdict(target.score(truth, answers, index.speaker_of_rows))
    lists: dict[str, Any] = {
        name: details.pop(name) for name in ("per_speaker", "confusion") if name in details
    }
    number = details.pop("number")

    return {
        "number": number,
        "num_speakers": len(lists["per_speaker"]),
        "truth": truth_name,
        "names": list(target.names),
        "scores": details,
        **lists,
        "config": to_mapping(config),
    }
