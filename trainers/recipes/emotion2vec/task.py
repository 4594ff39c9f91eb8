"""Pre-training with utterance and frame terms: the recipe `emotion2vec` (Ma et al. 2024).

Sections 3 and 4.2; Tables 8 to 11 compare its options. It needs sound and nothing else: neither
labels nor speakers. Validation computes the loss on held-out utterances. The student is exported as
an encoder, with its decoder beside it, from which another run can go on.

Shapes: N utterances, D width.
"""

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch, UtterancePlan
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.storage.files import flush_tree
from trainers.engine.ranks import on_first_rank
from trainers.models.encoders.data2vec.configuration import Data2VecConfig
from trainers.models.encoders.data2vec.decoders import load_decoder, make_decoder, save_decoder
from trainers.models.encoders.data2vec.encoder import Data2VecEncoder
from trainers.models.encoders.data2vec.published import from_transformers
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.preparation.durations import with_durations
from trainers.preparation.hold_out import hold_out
from trainers.preparation.small_encoder import set_statistics
from trainers.recipes.emotion2vec.config import Emotion2vecConfig
from trainers.recipes.emotion2vec.model import NUM_PLAIN_SCORES, Emotion2vecModel
from trainers.recipes.recipe import Run
from trainers.recipes.unlabeled_task import VALIDATION_UTTERANCES, UnlabeledTask
from trainers.task import TrainingModel

log = logging.getLogger(__name__)

GROUPS = 16  # of the published positional convolutions and decoder


class Emotion2vecTask(UnlabeledTask):
    """The task of `emotion2vec` on some splits of a corpus."""

    def __init__(self, run: Run, options: Emotion2vecConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, corpus)
        self._options = options
        everything = _long_enough(corpus, options)

        held_out = hold_out(everything, options.held_out_share, seed=run.engine.seed)
        self.divide(everything, held_out)
        self._first, self._decoder_folder = self._first_encoder()

    @property
    def stream_options(self) -> Sequence[object]:
        """The length that batches are cropped to at most."""
        return (self._options.max_seconds,)

    @property
    def score_width(self) -> int:
        """The number of scores of an utterance."""
        return NUM_PLAIN_SCORES + int(self._first.config.hidden_size)

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """Do nothing: the teacher makes all targets while it trains."""

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        return BatchReader(self.train, ["sound"], cache_bytes=self._data.cache_bytes)

    def validation_reader(self) -> BatchReader:
        """Return a reader of the held-out utterances."""
        return BatchReader(self._held_out, ["sound"])

    def plan(self) -> UtterancePlan:
        """Plan every utterance once an epoch, at the length that it is cropped to."""
        seconds = np.minimum(self.train.durations, self._options.max_seconds)
        return UtterancePlan(seconds, self._data.utterances, seed=self._engine.seed)

    def validation_batches(self) -> list[PlannedBatch]:
        """Batch the held-out utterances by length, because batches are cropped to the shortest."""
        order = np.argsort(self._held_out.durations, kind="stable")
        return [
            PlannedBatch(rows, np.arange(len(rows)))
            for rows in np.array_split(order, -(-len(order) // VALIDATION_UTTERANCES))
        ]

    def build_model(self) -> Emotion2vecModel:
        """Build student, decoder and teacher; they are the same on every rank."""
        torch.manual_seed(self._engine.seed)
        encoder = copy.deepcopy(self._first)
        decoder = make_decoder(encoder.config)
        if self._decoder_folder is not None:
            load_decoder(decoder, self._decoder_folder)

        if self._encoder.freezes_front_end(by_default=False):
            encoder.front_end.convolutions.requires_grad_(False)
        if self._encoder.freeze_layers > len(encoder.body.layers):
            raise ConfigError(
                f"encoder.freeze_layers: got {self._encoder.freeze_layers}, expected at most the "
                f"encoder's {len(encoder.body.layers)}"
            )
        for layer in encoder.body.layers[: self._encoder.freeze_layers]:
            layer.requires_grad_(False)

        top_layers = self._options.targets.top_layers or 0
        if top_layers > len(encoder.body.layers):
            raise ConfigError(
                f"model.targets.top_layers: got {top_layers}, expected at most the encoder's "
                f"{len(encoder.body.layers)}"
            )
        return Emotion2vecModel(encoder, decoder, self._options)

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Mean terms over the held-out utterances, and the spread of their targets."""
        plain, targets_ND = np.split(scores.astype(np.float64), [NUM_PLAIN_SCORES], axis=1)
        frame, utterance, square = plain.mean(axis=0)

        options = self._options
        figures = {"loss": (frame if options.has_frame_term else 0.0)}
        if options.has_frame_term:
            figures["frame"] = frame
            # As a share of what predicting 0 would leave: teachers of two steps give targets of
            # different size.
            width = targets_ND.shape[1]
            figures["frame_share"] = frame / (np.sqrt(width) * max(square, 1e-12))
        if options.has_utterance_term:
            figures["utterance"] = utterance
            figures["loss"] += options.alpha * utterance
        figures["utterance_spread"] = targets_ND.std(axis=0).mean()
        return {name: float(value) for name, value in figures.items()}

    def objective(self, figures: Mapping[str, float]) -> float:
        """The negative loss: the higher, the better."""
        return -figures["loss"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the student as an encoder, and its decoder beside it."""
        assert isinstance(model, Emotion2vecModel)  # noqa: S101 (this task made it)
        folder.mkdir(parents=True, exist_ok=True)
        plain = Data2VecEncoder(model.encoder.config)
        plain.load_state_dict(model.encoder.state_dict())
        plain.save_pretrained(folder)
        save_decoder(model.decoder, folder)
        flush_tree(folder)

    def _first_encoder(self) -> tuple[Data2VecEncoder, Path | None]:
        """Load or make the encoder that training starts from, and say where its decoder may lie."""
        torch.manual_seed(self._engine.seed)
        checkpoint, num_tokens = self._encoder.checkpoint, self._options.num_extra_tokens
        if checkpoint is not None:
            model = load_encoder(checkpoint, self._encoder.revision).model
            return _with_tokens(_own(model, checkpoint), num_tokens), Path(checkpoint)

        encoder = Data2VecEncoder(Data2VecConfig(**self._sizes(), num_extra_tokens=num_tokens))
        set_statistics(
            LayerwiseEncoder(encoder),
            self.training_reader(),
            len(self.train),
            seed=self._engine.seed,
        )
        # The call made an adapter, and adapters do not train what stands for hidden frames.
        encoder.requires_grad_(True)
        return encoder, None

    def _sizes(self) -> dict[str, Any]:
        """The sizes of an encoder that is trained from nothing."""
        sizes, options = self._encoder, self._options
        width, prenet = sizes.hidden_size, options.prenet_layers
        if prenet is None:
            prenet = sizes.num_layers // 3
        if prenet >= sizes.num_layers:
            raise ConfigError(
                f"model.prenet_layers: got {prenet}, expected fewer than encoder.num_layers, "
                f"{sizes.num_layers}, because the other layers give the targets"
            )

        return {
            "body": options.body,
            "front_end": options.front_end,
            "conv_size": options.conv_size,
            "hidden_size": width,
            "num_hidden_layers": sizes.num_layers,
            "num_prenet_layers": prenet,
            "num_attention_heads": sizes.num_heads,
            "intermediate_size": sizes.intermediate_size,
            "position_groups": gcd(GROUPS, width),
            "decoder_size": width // 2,
            "decoder_groups": gcd(GROUPS, width // 2),
            "dropout_probability": sizes.dropout,
        }


def _own(model: Any, checkpoint: str) -> Data2VecEncoder:
    """The encoder as this project's class. Raises ConfigError for another family."""
    if isinstance(model, Data2VecEncoder):
        return model.requires_grad_(True)
    if model.config.model_type == "data2vec-audio":
        found = from_transformers(model.state_dict(), model.config)
        encoder = Data2VecEncoder(found.config)
        encoder.load_state_dict(found.encoder)
        return encoder

    raise ConfigError(
        f"encoder.checkpoint {checkpoint}: got a {model.config.model_type} model, expected "
        "data2vec, data2vec 2.0 or emotion2vec, whose layers give the targets"
    )


def _with_tokens(encoder: Data2VecEncoder, num_tokens: int) -> Data2VecEncoder:
    """The encoder with so many extra tokens; those of another number are new."""
    if encoder.config.num_extra_tokens == num_tokens:
        return encoder

    config = copy.deepcopy(encoder.config)
    config.num_extra_tokens = num_tokens
    changed = Data2VecEncoder(config)
    weights = encoder.state_dict()
    weights.pop("body.tokens", None)
    if changed.body.tokens is not None:
        weights["body.tokens"] = changed.body.tokens.detach()
    changed.load_state_dict(weights)
    return changed


def _long_enough(corpus: CorpusIndex, options: Emotion2vecConfig) -> CorpusIndex:
    index = with_durations(corpus.split(*options.splits), on_first_rank)
    long = np.flatnonzero(index.durations >= options.min_seconds)
    if not len(long):
        raise ConfigError(
            f"model.min_seconds: got {options.min_seconds}, but the longest utterance has "
            f"{index.durations.max():.2f} s"
        )

    log.info("%d of %d utterances have %g s or more", len(long), len(index), options.min_seconds)
    return index.take(long)
