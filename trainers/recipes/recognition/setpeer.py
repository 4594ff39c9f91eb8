"""SetPeER (setpeer-emoceleb, section IV): what the recipe adds to the recognition task.

Batches hold sets of a speaker's utterances, the recognizer has the personalized feature extractor
P, and the loss has the terms of Eq. 8.
"""

from collections.abc import Mapping
from typing import Any

from shards.config import ConfigError
from shards.loading.index import CorpusIndex
from trainers.recipes.recipe import Run
from trainers.recipes.recognition.config import SetPeerConfig
from trainers.recipes.recognition.task import RecognitionTask

# Options of the recipe that P takes under the same names.
EXTRACTOR_OPTIONS = (
    "num_prefixes",
    "code_width",
    "num_codes",
    "quantized",
    "restart_codes",
    "commitment",
)


class SetPeerTask(RecognitionTask):
    """The recognition task, personalized by SetPeER."""

    def __init__(self, run: Run, options: SetPeerConfig, corpus: CorpusIndex) -> None:
        super().__init__(run, options, corpus)
        self._setpeer = options

    def term_weights(self) -> Mapping[str, float]:
        """The lambdas of Eq. 8."""
        options = self._setpeer
        return {
            "supervised": options.classification_weight,
            "nce": options.contrastive_weight,
            "vq": options.vq_weight,
        }

    def personal_options(self) -> dict[str, Any]:
        """The configuration of P, of its fusion, and of the loss over halves of a set."""
        options = self._setpeer

        # config.json keeps the spelling it began with.
        return {
            "fusion": options.fusion,
            "extractor": {name: getattr(options, name) for name in EXTRACTOR_OPTIONS}
            | {"normalise_codes": options.normalize_codes},
            "contrast_temperature": options.temperature if options.contrastive_weight else None,
            "contrast_similarity": options.similarity,
        }

    def require_speakers_usable(self) -> None:
        """Refuse speaker embeddings, because P takes their place."""
        raise ConfigError(
            "encoder.checkpoint: got speaker embeddings (papt), which setpeer cannot use; "
            "fine-tune this checkpoint with finetune, or give setpeer an encoder without them"
        )
