"""Continued masked reconstruction: the recipes `tapt-video` and `papt-video`.

They are to VideoMAE what `tapt` and `papt` are to HuBERT (see `task.py`): an encoder goes on with
its own pre-training on the corpus at hand, `papt-video` with an embedding for each speaker.
Validation is the same error on held-out utterances of the training speakers.

The encoder is exported as transformers reads it, with the image processor that makes its clips.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import VideoMAEModel

from shards.loading.batch_plan import UtterancePlan
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.storage.files import flush_tree
from trainers.engine.ranks import on_first_rank
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import require_modality
from trainers.models.parts.device import default_device
from trainers.models.personal.adapted_encoder import SpeakerState, save_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.models.recognizer import is_recognizer
from trainers.models.trained import encoder_of
from trainers.models.video_predictor import MaskedVideoPredictor, load_decoder
from trainers.preparation.hold_out import hold_out
from trainers.preparation.length_limit import LengthLimit
from trainers.preparation.proxy_speakers import speaker_vectors
from trainers.preparation.small_encoder import small_video_config
from trainers.preparation.video_input import clip_format, save_processor
from trainers.recipes.papt.video_config import VideoPaptConfig, VideoPretrainConfig
from trainers.recipes.papt.video_model import VideoPretrainingModel
from trainers.recipes.recipe import Run
from trainers.recipes.unlabeled_task import UnlabeledTask
from trainers.task import TrainingModel

log = logging.getLogger(__name__)


class VideoPretrainingTask(UnlabeledTask):
    """The task of `tapt-video` on some splits of a corpus."""

    score_width = 1

    def __init__(self, run: Run, options: VideoPretrainConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, corpus)
        self._options = options
        self._clip = clip_format(run.encoder, run.data.faces)

        self._limit = LengthLimit(run.data, seed=run.engine.seed)
        index = self._limit.within(corpus.split(*options.splits), " ".join(options.splits))
        held_out = hold_out(index, options.held_out_share, seed=run.engine.seed)
        self.divide(index, held_out)
        self.speaker_names: list[str] = []

    def prepare(self, out: Path, say: Callable[[str], None]) -> None:
        """List what is left out; the pixels themselves are predicted."""
        on_first_rank(lambda: self._limit.write(out))

    def training_reader(self) -> BatchReader:
        """Return a reader of training batches."""
        return BatchReader(
            self.train, ["clip"], cache_bytes=self._data.cache_bytes, clip=self._clip
        )

    def validation_reader(self) -> BatchReader:
        """Return a reader of the held-out utterances."""
        return BatchReader(self._held_out, ["clip"], clip=self._clip)

    def plan(self) -> UtterancePlan:
        """Plan every utterance once an epoch."""
        return UtterancePlan(self.train.durations, self._data.utterances, seed=self._engine.seed)

    def build_model(self) -> VideoPretrainingModel:
        """Build the encoder with its decoder; both are the same on every rank."""
        torch.manual_seed(self._engine.seed)
        encoder = self.first_encoder()
        speakers = self.make_speakers(encoder.width)
        predictor = MaskedVideoPredictor(
            encoder, speakers=speakers, decoder=self._trained_decoder()
        )

        encoder.freeze(
            front_end=self._encoder.freezes_front_end(by_default=False),
            num_layers=self._encoder.freeze_layers,
        )
        numbers = {name: number for number, name in enumerate(self.speaker_names)}
        return VideoPretrainingModel(predictor, self._options.mask_ratio, numbers)

    def make_speakers(self, width: int) -> SpeakerEmbedding | None:
        """Make embeddings of `width`; None in recipes that do not tell speakers apart."""
        return None

    def speaker_state(self, predictor: MaskedVideoPredictor) -> SpeakerState | None:
        """What was learned of speakers; None in recipes that do not tell speakers apart."""
        return None

    def validate(self, rows: NDArray[np.int64], scores: NDArray[np.float32]) -> Mapping[str, float]:
        """Mean error of the hidden patches of the held-out utterances."""
        return {"masked": float(scores.astype(np.float64).mean())}

    def objective(self, figures: Mapping[str, float]) -> float:
        """The negative error: the higher, the better."""
        return -figures["masked"]

    def export(self, model: TrainingModel, folder: Path) -> None:
        """Write the encoder with its image processor and, if there are any, its speakers."""
        assert isinstance(model, VideoPretrainingModel)  # noqa: S101 (this task made it)
        save_encoder(model.predictor.encoder, folder, self.speaker_state(model.predictor))
        save_processor(self._clip, folder)
        flush_tree(folder)

    def first_encoder(self) -> LayerwiseEncoder:
        """Load or make the encoder that training starts from."""
        if self._encoder.checkpoint is not None:
            encoder = encoder_of(self._encoder.checkpoint, self._encoder.revision)
            require_modality(encoder, "video")
            return encoder

        config = small_video_config(self._encoder)
        # The decoder is made as wide as the small encoder, and VideoMAE's is a third as deep.
        config.decoder_hidden_size = config.hidden_size
        config.decoder_intermediate_size = config.intermediate_size
        config.decoder_num_attention_heads = config.num_attention_heads
        config.decoder_num_hidden_layers = max(1, config.num_hidden_layers // 3)
        return LayerwiseEncoder(VideoMAEModel(config))

    def _trained_decoder(self) -> dict[str, Tensor] | None:
        """The decoder that the checkpoint brings; a new one is made where it brings none."""
        checkpoint = self._encoder.checkpoint
        if checkpoint is None or is_recognizer(checkpoint):
            return None

        decoder = load_decoder(checkpoint, self._encoder.revision)
        log.info("decoder: %s", "a new one" if decoder is None else "that of the checkpoint")
        return decoder


class VideoPaptTask(VideoPretrainingTask):
    """Masked reconstruction with speaker embeddings."""

    def __init__(self, run: Run, options: VideoPaptConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, options, corpus)
        self._fusion = options.fusion
        self._original: LayerwiseEncoder | None = None

    def make_speakers(self, width: int) -> SpeakerEmbedding:
        """Make new embeddings, with the vectors that the original encoder gives the speakers."""
        self._original = self.first_encoder().to(default_device())
        self.speaker_names, vectors = speaker_vectors(
            self._original, self.train, "video", self._clip
        )

        speakers = SpeakerEmbedding(len(self.speaker_names), width, vectors.shape[1], self._fusion)
        speakers.vectors.copy_(torch.from_numpy(vectors))
        return speakers

    def speaker_state(self, predictor: MaskedVideoPredictor) -> SpeakerState | None:
        """The embeddings and the original encoder."""
        if predictor.speakers is None or self._original is None:
            return None

        return SpeakerState(self.speaker_names, self._fusion, predictor.speakers, self._original)
