"""Makes what has no trained branches yet: one branch, or one of sound and one of faces together.

Shapes: F features of a frame.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex
from shards.loading.inputs import InputName
from shards.loading.loader import BatchReader
from shards.media.sound_format import SAMPLE_RATE_HZ
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.two_stage.branch import FaceConvolution
from trainers.models.two_stage.configuration import BranchConfig, Fusion, TwoStageConfig
from trainers.models.two_stage.recognizer import TwoStageRecognizer
from trainers.preparation.encoder_start import first_sound_encoder
from trainers.preparation.small_encoder import BATCH_UTTERANCES, STATISTICS_UTTERANCES
from trainers.recipes.recipe import Run
from trainers.recipes.two_stage.config import TwoStageOptions

INPUTS: dict[str, list[InputName]] = {
    "audio": ["sound"],
    "face": ["face"],
    "both": ["sound", "face"],
}

# Makes a reader of some inputs of the training utterances.
MakeReader = Callable[[list[InputName]], BatchReader]


def new_recognizer(
    run: Run,
    options: TwoStageOptions,
    train: CorpusIndex,
    make_reader: MakeReader,
    **described: Any,
) -> TwoStageRecognizer:
    """A model with new branches, for the training utterances `train`.

    `described` are further fields of its configuration. Raises ConfigError for an encoder that
    cannot be loaded, or that cannot hear all of an utterance.
    """
    assert options.inputs is not None  # noqa: S101 (`branches` are given instead)
    inputs = INPUTS[options.inputs]
    encoder = _encoder(run, train, make_reader) if "sound" in inputs else None

    branches: list[BranchConfig] = []
    if encoder is not None:
        branches.append(_sound_branch(encoder, options))
    if "face" in inputs:
        branches.append(_face_branch(_face_size(lambda: make_reader(inputs), len(train)), options))

    recognizer = TwoStageRecognizer(_config(encoder, branches, options, described))
    if encoder is not None:
        own = cast(LayerwiseEncoder, recognizer.encoders[0])
        own.load_state_dict(encoder.state_dict())
        if options.trains_encoder:
            own.freeze(
                front_end=run.encoder.freezes_front_end(by_default=True),
                num_layers=run.encoder.freeze_layers,
            )
        else:
            recognizer.keep(own)
    if "face" in inputs and options.standardize_face:
        _standardize(recognizer, lambda: make_reader(inputs), len(train), seed=run.engine.seed)

    return recognizer


def _config(
    encoder: LayerwiseEncoder | None,
    branches: list[BranchConfig],
    options: TwoStageOptions,
    described: dict[str, Any],
) -> TwoStageConfig:
    return TwoStageConfig(
        encoders=[] if encoder is None else [encoder.model.config.to_dict()],
        normalizes=[] if encoder is None else [encoder.normalizes],
        branches=[branch.as_values() for branch in branches],
        fusion=_fusion(options),
        architecture=options.architecture,
        sfav_fusion=options.sfav_fusion,
        num_joint_layers=options.num_layers,
        num_shared_layers=options.num_shared_layers,
        head_width=options.head_width,
        dropout_probability=options.dropout,
        **described,
    )


def _fusion(options: TwoStageOptions) -> Fusion:
    if options.architecture != "branches":
        return "baseline"
    return "shared" if options.inputs == "both" else "none"


def _encoder(run: Run, train: CorpusIndex, make_reader: MakeReader) -> LayerwiseEncoder:
    encoder = first_sound_encoder(
        run.encoder,
        lambda: make_reader(["sound"]),
        len(train),
        seed=run.engine.seed,
        allow_partial=run.allow_partial_start,
    )
    if encoder.max_samples is not None:
        most = encoder.max_samples / SAMPLE_RATE_HZ
        longer = int((train.durations > most).sum())
        if longer:
            raise ConfigError(
                f"encoder.checkpoint: got an encoder that hears at most {most:.0f} s, but {longer} "
                f"of {len(train)} training utterances are longer; give data.max_seconds={most:.0f}"
            )

    return encoder


def _sound_branch(encoder: LayerwiseEncoder, options: TwoStageOptions) -> BranchConfig:
    return BranchConfig(
        input="sound",
        feature_size=encoder.width,
        num_states=len(encoder.layers) + 1,
        encoder=0,
        **_sizes(options),
    )


def _face_branch(feature_size: int, options: TwoStageOptions) -> BranchConfig:
    return BranchConfig(
        input="face",
        feature_size=feature_size,
        kernel_size=options.kernel_size,
        stride=options.stride,
        **_sizes(options),
    )


def _sizes(options: TwoStageOptions) -> dict[str, Any]:
    return {
        "labels": options.labels,
        "positions": options.positions,
        "hidden_size": options.hidden_size,
        # Other baselines have no layers of one stream alone in front of what joins them.
        "num_layers": options.num_layers if options.architecture in ("branches", "vavl") else 0,
        "num_attention_heads": options.num_heads,
        "intermediate_size": options.feed_forward,
        "dropout_probability": options.dropout,
        # Branches that are trained together never answer alone.
        "head_width": None if options.inputs == "both" else options.head_width,
    }


def _face_size(make_reader: Callable[[], BatchReader], num_utterances: int) -> int:
    """How many features a face frame has, which only an utterance with a face tells."""
    for frames in _faces(make_reader, np.arange(num_utterances)):
        return int(frames.shape[-1])

    raise ConfigError(
        "model.inputs: no training utterance has face features (face.npy); import them with a "
        "column `face`, or give --set model.inputs=audio"
    )


def _standardize(
    recognizer: TwoStageRecognizer,
    make_reader: Callable[[], BatchReader],
    num_utterances: int,
    *,
    seed: int,
) -> None:
    """Set the mean [F] and deviation [F] of the faces of some training utterances."""
    chosen = np.random.default_rng(seed).permutation(num_utterances)[:STATISTICS_UTTERANCES]
    joined = torch.cat(list(_faces(make_reader, chosen))).double()

    for branch in recognizer.branches:
        if isinstance(branch.front, FaceConvolution):
            branch.front.set_statistics(joined.mean(dim=0).float(), joined.std(dim=0).float())


def _faces(make_reader: Callable[[], BatchReader], rows: NDArray[np.int64]) -> Iterator[Tensor]:
    """The face frames [T, F] of each of the utterances `rows` that has any."""
    reader = make_reader()
    for start in range(0, len(rows), BATCH_UTTERANCES):
        part = rows[start : start + BATCH_UTTERANCES]
        face = reader[0, PlannedBatch(part, np.arange(len(part)))].inputs["face"]
        for values, length in zip(face.values, face.lengths.tolist(), strict=True):
            if length:
                yield values[:length]
