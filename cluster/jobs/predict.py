"""`emostream predict`: recognize recordings in files, in a table or in shards.

Everything runs in one process, on its GPU if it has one: a recognizer is small beside a panel, and
a laptop with a folder of recordings is the usual case.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from actors.embedding.config import EmbedderConfig, fingerprint
from actors.inference.checkpoints import CheckpointConfig, identify
from actors.predicting.config import PredictConfig
from actors.work.task import require_writable
from cluster.exit_status import ExitStatus
from cluster.progress import progress
from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.speakers.files import read_speakers
from shards.speakers.pldc import calibrate_speakers
from shards.speakers.table import SpeakerTable
from shards.storage.files import make_directory

if TYPE_CHECKING:
    # Why not at run time: they import torch, which the help text does not need.
    from actors.predicting.predicting import Prediction
    from actors.predicting.recognizers import SpeechRecognizer
    from actors.predicting.recordings import Recording

NUM_SHOWN = 20


def run_predict(config: PredictConfig) -> int:
    """Run `emostream predict`: predict, name what cannot be used, return the exit status."""
    predictions = predict(config)
    bad = [one for one in predictions if one.error is not None]

    for one in bad[:NUM_SHOWN]:
        sys.stderr.write(f"  {one.key}: {one.error}\n")
    if len(bad) > NUM_SHOWN:
        sys.stderr.write(f"  and {len(bad) - NUM_SHOWN} more, in the column `error`\n")

    sys.stdout.write(f"{len(predictions)} rows in {config.out}, {len(bad)} without a prediction\n")
    return ExitStatus.DAMAGED if bad else ExitStatus.DONE


def predict(config: PredictConfig) -> "list[Prediction]":
    """Recognize every recording and write the file; return its rows.

    Raises ConfigError for an input, a checkpoint or a speaker table that cannot be used.
    """
    from actors.predicting.predicting import Predictor
    from actors.predicting.prediction_file import prediction_table, write_predictions
    from actors.predicting.recognizers import SpeechRecognizer

    recognizer = SpeechRecognizer(config.checkpoint)
    neighbors = None if config.speakers is None else _neighbors(config, recognizer)
    recordings = _recordings(config)
    _require_speakers(config, recognizer, recordings)
    folder = config.out.rpartition("/")[0] or "."
    make_directory(folder)
    require_writable(folder)

    recognizer.setup(os.cpu_count() or 1)
    with progress("predict", "recordings") as update:
        predictions = Predictor(recognizer, config, recordings).predict(update)
    if neighbors is not None:
        predictions = _calibrated(config, neighbors, predictions)

    table = prediction_table(predictions, recognizer.names, is_values=recognizer.is_values)
    checkpoint = identify(CheckpointConfig(checkpoint=config.checkpoint))
    write_predictions(config.out, table, {"options": to_mapping(config), **checkpoint})
    return predictions


def _recordings(config: PredictConfig) -> "list[Recording]":
    from actors.predicting.recordings import (
        recordings_of_files,
        recordings_of_shards,
        recordings_of_table,
    )

    if config.shards is not None:
        return recordings_of_shards(config.shards)
    if config.table is not None and config.root is not None:
        return recordings_of_table(config.table, config.root)
    return recordings_of_files(config.audio, config.speaker)


def _require_speakers(
    config: PredictConfig, recognizer: "SpeechRecognizer", recordings: "Sequence[Recording]"
) -> None:
    """Raise ConfigError when speakers are needed and no recording has one."""
    why = None
    if recognizer.personalization != "none":
        why = f"--checkpoint {config.checkpoint}: is personalized"
    elif config.pldc is not None:
        why = f"--pldc {config.pldc}: calibrates each speaker"

    if why is not None and all(one.speaker is None for one in recordings):
        raise ConfigError(
            f"{why}, but no recording says who speaks; give --speaker NAME or --speaker folder "
            "with --audio, or name the speakers in a column `speaker` of --table"
        )


def _neighbors(config: PredictConfig, recognizer: "SpeechRecognizer") -> SpeakerTable:
    """The speakers of --speakers that have labels, with the labels in the recognizer's order.

    Raises ConfigError when the table was made with another encoder, or has other labels.
    """
    assert config.speakers is not None  # noqa: S101 (the caller has checked it)
    table, _ = read_speakers(config.speakers)

    if table.fingerprint != fingerprint(EmbedderConfig(encoder=config.checkpoint)):
        raise ConfigError(
            f"--speakers {config.speakers}: holds vectors of another encoder ({table.encoder}); "
            f"make it with `emostream embed --encoder {config.checkpoint}`"
        )
    missing = [name for name in recognizer.names if name not in table.dimensions]
    if missing:
        got = ", ".join(table.dimensions) or "nothing"
        raise ConfigError(
            f"--speakers {config.speakers}: has labels of {got}, expected {', '.join(missing)} "
            "too; make it again with --labels"
        )

    columns = [table.dimensions.index(name) for name in recognizer.names]
    labeled = np.flatnonzero((table.label_count[:, columns] > 0).all(axis=1))
    if not len(labeled):
        raise ConfigError(f"--speakers {config.speakers}: no speaker has labels")

    chosen = table.take(labeled)
    return replace(
        chosen,
        dimensions=recognizer.names,
        label_mean=chosen.label_mean[:, columns],
        label_std=chosen.label_std[:, columns],
        label_count=chosen.label_count[:, columns],
    )


def _calibrated(
    config: PredictConfig, table: SpeakerTable, predictions: "list[Prediction]"
) -> "list[Prediction]":
    """The predictions with calibrated scores (papt-pldc, Eq. 3); windows count as utterances.

    A prediction without a speaker has no one to be calibrated by, and says so.
    """
    assert config.pldc is not None  # noqa: S101 (the caller has checked it)
    places = [
        place
        for place, one in enumerate(predictions)
        if one.scores is not None and one.speaker is not None
    ]
    lost = "no_speaker: --pldc must know who speaks"
    answers = [
        replace(one, scores=None, features=None, error=lost)
        if one.scores is not None and one.speaker is None
        else one
        for one in predictions
    ]
    if not places:
        return answers

    scores = calibrate_speakers(
        table,
        np.asarray([predictions[place].speaker for place in places], dtype=object),
        np.asarray([predictions[place].features for place in places], dtype=np.float32),
        np.asarray([predictions[place].scores for place in places], dtype=np.float32),
        neighbors=config.neighbors,
        mode=config.pldc,
    )
    for place, row in zip(places, scores.astype(np.float32), strict=True):
        answers[place] = replace(answers[place], scores=row)
    return answers
