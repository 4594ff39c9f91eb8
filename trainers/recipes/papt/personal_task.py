"""PAPT (papt-pldc, section 4): masked prediction with an embedding for each training speaker.

The original encoder is exported beside the adapted one, because it finds the proxies of speakers
who have no embedding.
"""

import torch

from shards.loading.index import CorpusIndex
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.masked_predictor import MaskedPredictor
from trainers.models.parts.device import default_device
from trainers.models.personal.adapted_encoder import SpeakerState
from trainers.models.personal.speaker_embedding import SpeakerEmbedding
from trainers.preparation.proxy_speakers import speaker_vectors
from trainers.recipes.papt.config import PaptConfig
from trainers.recipes.papt.task import PretrainingTask
from trainers.recipes.recipe import Run


class PaptTask(PretrainingTask):
    """Masked prediction with speaker embeddings."""

    def __init__(self, run: Run, options: PaptConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, options, corpus)
        self._fusion = options.fusion
        self._original: LayerwiseEncoder | None = None

    def make_speakers(self, width: int) -> SpeakerEmbedding:
        """Make new embeddings, with the vectors that the original encoder gives the speakers."""
        self._original = self.first_encoder().to(default_device())
        self.speaker_names, vectors = speaker_vectors(self._original, self.train, "audio")

        speakers = SpeakerEmbedding(len(self.speaker_names), width, vectors.shape[1], self._fusion)
        speakers.vectors.copy_(torch.from_numpy(vectors))
        return speakers

    def speaker_state(self, predictor: MaskedPredictor) -> SpeakerState | None:
        """The embeddings and the original encoder."""
        if predictor.speakers is None or self._original is None:
            return None

        return SpeakerState(self.speaker_names, self._fusion, predictor.speakers, self._original)
