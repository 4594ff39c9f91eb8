"""Calibration of predictions by a table of speakers (PLDC), of rows in memory or in tables.

A speaker is calibrated by all utterances. Of tables, one pass adds up what calibration must know of
each speaker, and a second one calibrates row by row, so that memory follows the number of speakers
and not that of utterances.

Shapes: V classes or values, D width.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from actors.embedding.config import EmbedderConfig, fingerprint
from actors.predicting.config import PredictConfig
from shards.config import ConfigError
from shards.grouping import group_rows
from shards.speakers.files import read_speakers
from shards.speakers.pldc import Moments, calibrate, calibrate_speakers, labels_alike
from shards.speakers.table import SpeakerTable
from shards.tables.recordings import FEATURES_COLUMN, Prediction, score_columns, scores_of

LOST = "no_speaker: --pldc must know who speaks"


def labeled_speakers(config: PredictConfig, names: Sequence[str]) -> SpeakerTable:
    """The speakers of --speakers that have labels, with the labels in the order of `names`.

    Raises ConfigError when the table was made with another encoder, or has other labels.
    """
    assert config.speakers is not None  # noqa: S101 (the caller has checked it)
    table, _ = read_speakers(config.speakers)

    if table.fingerprint != fingerprint(EmbedderConfig(encoder=config.checkpoint)):
        raise ConfigError(
            f"--speakers {config.speakers}: holds vectors of another encoder ({table.encoder}); "
            f"make it with `emostream embed --encoder {config.checkpoint}`"
        )
    missing = [name for name in names if name not in table.dimensions]
    if missing:
        got = ", ".join(table.dimensions) or "nothing"
        raise ConfigError(
            f"--speakers {config.speakers}: has labels of {got}, expected {', '.join(missing)} "
            "too; make it again with --labels"
        )

    columns = [table.dimensions.index(name) for name in names]
    labeled = np.flatnonzero((table.label_count[:, columns] > 0).all(axis=1))
    if not len(labeled):
        raise ConfigError(f"--speakers {config.speakers}: no speaker has labels")

    chosen = table.take(labeled)
    return replace(
        chosen,
        dimensions=tuple(names),
        label_mean=chosen.label_mean[:, columns],
        label_std=chosen.label_std[:, columns],
        label_count=chosen.label_count[:, columns],
    )


def calibrated(
    config: PredictConfig, table: SpeakerTable, predictions: list[Prediction]
) -> list[Prediction]:
    """The predictions with calibrated scores (papt-pldc, Eq. 3); windows count as utterances.

    A prediction without a speaker has no one to be calibrated by, and says so.
    """
    assert config.pldc is not None  # noqa: S101 (the caller has checked it)
    places = [
        place
        for place, one in enumerate(predictions)
        if one.scores is not None and one.speaker is not None
    ]
    answers = [
        replace(one, scores=None, features=None, error=LOST)
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


@dataclass(frozen=True, slots=True)
class _Heard:
    """What is known of a speaker: moments of the scores, and the sum of the features [D]."""

    moments: Moments
    features: NDArray[np.float64]

    def __add__(self, other: "_Heard") -> "_Heard":
        return _Heard(self.moments + other.moments, self.features + other.features)


class TableCalibration:
    """Calibrates the tables of shards: `hear` all of them first, then `calibrate` each."""

    def __init__(self, config: PredictConfig, table: SpeakerTable) -> None:
        self._config, self._table = config, table
        self._heard: dict[str, _Heard] = {}
        self._labels: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}

    def hear(self, rows: pa.Table) -> None:
        """Take note of the speakers of a table with scores and features."""
        usable, speakers = _usable(rows)
        if not len(usable):
            return

        scores = scores_of(rows)[usable]
        vectors = rows[FEATURES_COLUMN].combine_chunks().take(pa.array(usable))
        features = vectors.flatten().to_numpy().reshape(len(usable), -1)
        for speaker, mine in group_rows(speakers).items():
            found = _Heard(Moments.of(scores[mine]), features[mine].sum(axis=0, dtype=np.float64))
            known = self._heard.get(speaker)
            self._heard[speaker] = found if known is None else known + found

    def calibrate(self, rows: pa.Table) -> pa.Table:
        """The table with calibrated scores, and without features.

        A row without a speaker has no one to be calibrated by, and says so.
        """
        assert self._config.pldc is not None  # noqa: S101 (the caller has checked it)
        usable, speakers = _usable(rows)
        scores = scores_of(rows).astype(np.float64)

        nameless = rows["speaker"].is_null().to_numpy() & ~np.isnan(scores[:, 0])
        scores[nameless] = np.nan
        for speaker, mine in group_rows(speakers).items():
            mean, std = self._labels_of(speaker)
            places, own = usable[mine], self._heard[speaker].moments
            scores[places] = calibrate(scores[places], mean, std, self._config.pldc, own)

        return _with_scores(rows.drop_columns([FEATURES_COLUMN]), scores, nameless)

    def _labels_of(self, speaker: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        if speaker not in self._labels:
            heard = self._heard[speaker]
            vector = heard.features / heard.moments.count
            self._labels[speaker] = labels_alike(self._table, vector, self._config.neighbors)
        return self._labels[speaker]


def _usable(rows: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """The places of rows with scores and a speaker, and their speakers."""
    has_scores = rows[score_columns(rows)[0]].is_valid().to_numpy()
    places = np.flatnonzero(has_scores & rows["speaker"].is_valid().to_numpy())
    return places, rows["speaker"].take(pa.array(places)).to_numpy(zero_copy_only=False)


def _with_scores(
    rows: pa.Table, scores: NDArray[np.float64], nameless: NDArray[np.bool_]
) -> pa.Table:
    """The rows with other scores (NaN: none) and the likeliest class by them."""
    columns = score_columns(rows)
    has_none = np.isnan(scores[:, 0])

    for place, name in enumerate(columns):
        values = pa.array(scores[:, place].astype(np.float32), pa.float32(), mask=has_none)
        rows = rows.set_column(rows.column_names.index(name), name, values)
    if "label" in rows.column_names:
        best = np.where(has_none, 0, np.nan_to_num(scores).argmax(axis=1))
        labels = [
            None if none else columns[number].removeprefix("score_")
            for none, number in zip(has_none, best, strict=True)
        ]
        place = rows.column_names.index("label")
        rows = rows.set_column(place, "label", pa.array(labels, pa.string()))

    errors: Iterable[str | None] = [
        LOST if lost else error
        for lost, error in zip(nameless, rows["error"].to_pylist(), strict=True)
    ]
    place = rows.column_names.index("error")
    return rows.set_column(place, "error", pa.array(errors, pa.string()))
