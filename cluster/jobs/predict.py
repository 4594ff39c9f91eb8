"""`emostream predict`: recognize recordings in files, in a table or in shards.

Files and tables are recognized in one process, on its GPU if it has one: a recognizer is small
beside a panel, and a laptop with a folder of recordings is the usual case. Shards are recognized on
Ray; see `cluster.jobs.predict_shards`.
"""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from actors.inference.checkpoints import CheckpointConfig, identify
from actors.predicting.config import PredictConfig
from actors.work.task import require_writable
from cluster.exit_status import ExitStatus
from cluster.jobs.predict_calibration import calibrated, labeled_speakers
from cluster.jobs.predict_shards import run_predict_shards
from cluster.progress import progress
from shards.config import ConfigError
from shards.config_values import to_mapping
from shards.storage.files import make_directory
from shards.tables.recordings import Prediction, about_file, prediction_table
from shards.tables.row_files import write_row_file

if TYPE_CHECKING:
    # Why not at run time: they import torch, which the help text does not need.
    from actors.predicting.recognizers import PieceRecognizer
    from actors.predicting.recordings import Recording

NUM_SHOWN = 20


def run_predict(config: PredictConfig) -> int:
    """Run `emostream predict`: predict, name what cannot be used, return the exit status."""
    if config.shards is not None:
        return run_predict_shards(config)

    predictions = predict(config)
    bad = [one for one in predictions if one.error is not None]

    for one in bad[:NUM_SHOWN]:
        sys.stderr.write(f"  {one.key}: {one.error}\n")
    if len(bad) > NUM_SHOWN:
        sys.stderr.write(f"  and {len(bad) - NUM_SHOWN} more, in the column `error`\n")

    sys.stdout.write(f"{len(predictions)} rows in {config.out}, {len(bad)} without a prediction\n")
    return ExitStatus.DAMAGED if bad else ExitStatus.DONE


def predict(config: PredictConfig) -> list[Prediction]:
    """Recognize every recording of files or of a table and write the file; return its rows.

    Raises ConfigError for an input, a checkpoint or a speaker table that cannot be used.
    """
    from actors.predicting.needs import require_usable
    from actors.predicting.predicting import DecodedRecordings, Predictor
    from actors.predicting.recognizers import PieceRecognizer

    recognizer = PieceRecognizer(config.checkpoint)
    require_usable(config, recognizer)
    neighbors = None if config.speakers is None else labeled_speakers(config, recognizer.names)
    recordings = _recordings(config, recognizer)
    _require_speakers(config, recognizer, recordings)
    folder = config.out.rpartition("/")[0] or "."
    make_directory(folder)
    require_writable(folder)

    recognizer.setup(os.cpu_count() or 1)
    decoded = DecodedRecordings(recordings, config, recognizer.clip_format)
    with progress("predict", "recordings") as update:
        predictions = Predictor(recognizer, config, decoded).predict(update)
    if neighbors is not None:
        predictions = calibrated(config, neighbors, predictions)

    table = prediction_table(predictions, recognizer.names, is_values=recognizer.is_values)
    checkpoint = identify(CheckpointConfig(checkpoint=config.checkpoint))
    write_row_file(config.out, table, about_file({"options": to_mapping(config), **checkpoint}))
    return predictions


def _recordings(config: PredictConfig, recognizer: "PieceRecognizer") -> "list[Recording]":
    from actors.predicting.recordings import recordings_of_files, recordings_of_table

    if config.table is not None and config.root is not None:
        return recordings_of_table(config.table, config.root, recognizer.modality)
    return recordings_of_files(config.audio, config.speaker, recognizer.modality)


def _require_speakers(
    config: PredictConfig, recognizer: "PieceRecognizer", recordings: "Sequence[Recording]"
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
