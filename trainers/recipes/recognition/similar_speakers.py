"""Finds the training speakers who sound most like the target speakers, for the recipe `weighting`.

The method is that of Sridhar and Busso, "Unsupervised personalization of an emotion recognition
system" (IEEE Transactions on Affective Computing 13(4), 2022). It is for sound; Table VIII of
setpeer-emoceleb has it for video, and leaves open what faces were compared by. Functionals of each
utterance are standardized and reduced by a PCA of the training utterances. Each speaker becomes a
Gaussian mixture, and the training speakers of least KL(target || training) are chosen. Labels of
target speakers are not read. All ranks together read the utterances once, and only functionals are
kept, so memory grows by some hundred bytes an utterance, or 3 kB for video and 25 kB with ComParE.

The choice is saved beside the run and never made twice: a run that is resumed elsewhere, where a
sum may round otherwise, continues with the speakers that it began with.

Shapes: N utterances, X functionals, D principal components.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch.distributed as distributed
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex
from shards.loading.inputs import INPUT_OF, Modality
from shards.loading.loader import BatchReader, read_once
from shards.media.clip_format import ClipFormat
from shards.storage.documents import read_json, write_json
from trainers.engine.checkpoints import CHECKPOINTS_NAME, CheckpointFolder
from trainers.engine.ranks import on_first_rank
from trainers.recipes.recognition.config import WeightingConfig
from trainers.recipes.recognition.encoder_functionals import encoder_functionals
from trainers.recipes.recognition.functionals import Functionals, functionals_of
from trainers.recipes.recognition.speaker_mixtures import (
    Array,
    divergence,
    fit_mixture,
    within_speaker_variance,
)
from trainers.settings.encoder import EncoderConfig

log = logging.getLogger(__name__)

SIMILAR_SPEAKERS_NAME = "similar_speakers.json"
READ_UTTERANCES = 8


@dataclass(frozen=True, slots=True)
class SimilarSpeaker:
    """A training speaker, and its KL(target || training) in nats."""

    speaker: str
    divergence: float


Neighbors = Mapping[str, Sequence[SimilarSpeaker]]  # of each target speaker, the nearest first


@dataclass(frozen=True, slots=True)
class Measured:
    """Functionals [N, X] of utterances, and the speaker of each [N]."""

    functionals: NDArray[np.float32]
    speakers: NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """All that a choice of training speakers depends on."""

    train: CorpusIndex
    target: CorpusIndex
    options: WeightingConfig
    modality: Modality
    seed: int
    clip: ClipFormat | None = None
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def functionals(self) -> Functionals:
        """Make what measures an utterance."""
        kind = self.options.functionals
        if kind == "encoder":
            return encoder_functionals(self.encoder, self.modality)

        return functionals_of(kind, self.modality)

    def described(self) -> dict[str, object]:
        """Describe the choice in plain values; equal descriptions choose the same speakers."""
        options = self.options
        # These came later. Choices without them keep the description that they had.
        later: dict[str, object] = {} if self.clip is None else {"clip": str(self.clip)}
        if options.functionals == "encoder":
            later |= {"encoder": self.encoder.checkpoint, "revision": self.encoder.revision}

        return {
            "train": self.train.digest,
            "target": self.target.digest,
            "seed": self.seed,
            "target_split": options.target_split,
            "neighbours": options.neighbors,  # the file keeps the spelling it began with
            "functionals": options.functionals,
            "num_components": options.num_components,
            "explained_variance": options.explained_variance,
            **later,
        }


def adaptation_set(choice: Choice, out: Path) -> set[str]:
    """Choose the training speakers near any target speaker.

    Every rank of the run in `out` must call this and gets the same answer. An earlier choice is
    read from the run's folder. Raises ConfigError when the run has checkpoints but its choice is
    gone, or was made from other data or options.
    """
    path = out / SIMILAR_SPEAKERS_NAME
    neighbors = _read(path, choice.described())
    if neighbors is None:
        if CheckpointFolder(out / CHECKPOINTS_NAME).newest() is not None:
            raise ConfigError(
                f"resume: {path} is missing, or was made from other data or options than these; "
                "restore it, or give a new --out"
            )
        neighbors = _choose(choice)
        if distributed.get_rank() == 0:
            _write(path, choice.described(), neighbors)

    chosen = {neighbor.speaker for nearest in neighbors.values() for neighbor in nearest}
    log.info(
        "%d of %d training speakers weigh %g",
        len(chosen),
        len(choice.train.speakers),
        choice.options.weight,
    )
    return chosen


def find_neighbors(
    train: Measured, target: Measured, options: WeightingConfig, seed: int
) -> Neighbors:
    """Find the nearest training speakers of each target speaker, at most `options.neighbors`."""
    compress = make_pipeline(SimpleImputer(), StandardScaler(), PCA(options.explained_variance))
    train_ND = compress.fit_transform(_finite_or_nan(train.functionals))
    target_ND = compress.transform(_finite_or_nan(target.functionals))

    common_D = within_speaker_variance(train_ND, train.speakers)
    mixture_of = partial(
        fit_mixture, common_D=common_D, num_components=options.num_components, seed=seed
    )
    candidates = {name: mixture_of(rows) for name, rows in _by_speaker(train_ND, train.speakers)}

    found = {}
    for name, rows in _by_speaker(target_ND, target.speakers):
        mixture = mixture_of(rows)
        measured = [
            SimilarSpeaker(other, divergence(mixture, candidate))
            for other, candidate in candidates.items()
        ]
        found[name] = sorted(measured, key=lambda neighbor: neighbor.divergence)[
            : options.neighbors
        ]

    return found


def _by_speaker(points_ND: Array, speakers: NDArray[np.object_]) -> Iterator[tuple[str, Array]]:
    for name in np.unique(speakers.astype(str)).tolist():
        yield name, points_ND[speakers == name]


def _choose(choice: Choice) -> Neighbors:
    """Make the choice: all ranks measure utterances, and the first finds neighbors."""
    if len(choice.train.speakers) < 2:
        raise ConfigError(
            "recipe weighting: got one speaker in the training split, expected at least two to "
            "choose from"
        )

    measure = choice.functionals()
    heard = measure_utterances(choice.train, choice.modality, measure, choice.clip)
    heard_target = measure_utterances(choice.target, choice.modality, measure, choice.clip)
    return on_first_rank(lambda: find_neighbors(heard, heard_target, choice.options, choice.seed))


def measure_utterances(
    index: CorpusIndex,
    modality: Modality,
    measure: Functionals,
    clip: ClipFormat | None = None,
) -> Measured:
    """Measure the utterances of an index: every rank measures its share and gets them all.

    `clip` is the format of clips, for video.
    """
    rank, world_size = distributed.get_rank(), distributed.get_world_size()
    parts = np.split(np.arange(len(index)), range(READ_UTTERANCES, len(index), READ_UTTERANCES))
    planned = [PlannedBatch(rows, np.zeros_like(rows)) for rows in parts]

    name = INPUT_OF[modality]
    reader = BatchReader(index, [name], clip=clip)
    mine: dict[int, NDArray[np.float32]] = {}
    for batch in read_once(reader, planned, rank=rank, world_size=world_size):
        heard = batch.inputs[name]
        for row, media, length in zip(
            batch.rows.tolist(), heard.values, heard.lengths.tolist(), strict=True
        ):
            mine[row] = measure(media[:length])

    shares: list[dict[int, NDArray[np.float32]]] = [{} for _ in range(world_size)]
    distributed.all_gather_object(shares, mine)

    everyone = {row: values for share in shares for row, values in share.items()}
    functionals = np.stack([everyone[row] for row in range(len(index))])
    return Measured(functionals, index.speaker_of_rows)


def _finite_or_nan(functionals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Replace infinities by NaN, which stands for the training mean."""
    return np.where(np.isfinite(functionals), functionals, np.nan)


def _write(path: Path, made_from: Mapping[str, object], neighbors: Neighbors) -> None:
    plain = {
        name: [asdict(neighbor) for neighbor in nearest] for name, nearest in neighbors.items()
    }
    write_json(path, {"made_from": made_from, "neighbours": plain})


def _read(path: Path, made_from: Mapping[str, object]) -> Neighbors | None:
    """Read the earlier choice; None when there is none, or when it was made from something else."""
    if not path.exists():
        return None

    saved = read_json(path)
    if saved["made_from"] != made_from:
        return None

    return {
        name: [SimilarSpeaker(**found) for found in nearest]
        for name, nearest in saved["neighbours"].items()
    }
