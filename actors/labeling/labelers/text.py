"""Emotion from the words: any transformers sequence classifier over transcripts."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from actors.inference.batching import plan_batches
from actors.inference.loading import load_model
from actors.inference.outcomes import Missing, Outcome, class_probabilities, run_batches
from actors.inference.runtime import Runtime, Settled, settle
from actors.inference.waveforms import to_device
from actors.labeling.labelers.config import LabelerConfig
from actors.labeling.labelers.emotion_mapping import EmotionMapping, emotions
from shards.config import ConfigError

log = logging.getLogger(__name__)

PADDING_TOLERANCE = 1e-4
MAX_TOKENS = 8192  # of a text, where neither tokenizer nor model states a limit
PROBE_TEXTS = (
    "I am so glad.",
    "No. I told you never to touch that again, and I meant every single word of it, so put it back "
    "right now!",
    "Well, it happened, I suppose, and there is nothing anybody could have done.",
    "oh my god what was that",
)


class TextClassifier:
    """Turns texts into class probabilities, for the text labeler and the sentiment objective."""

    def __init__(self, name: str) -> None:
        self._name = name

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load model and tokenizer from `folder`."""
        self._runtime = runtime

        model = self._load(folder, torch.float32)
        self._tokenizer = _load_tokenizer(folder, model.config)
        self._max_tokens = longest_text(self._tokenizer, model.config)
        self._equal_lengths = self._tokenizer.pad_token_id is None or self._is_disturbed_by_padding(
            model
        )

        settled = settle(
            self._name, runtime, model, lambda dtype: self._load(folder, dtype), self._probe
        )
        self._model = settled.model
        return settled

    @property
    def id2label(self) -> dict[int, str]:
        """The checkpoint's class names."""
        return dict(self._model.config.id2label)

    def probabilities(self, texts: Sequence[str]) -> list[NDArray[np.float64] | Missing]:
        """Class probabilities of each text, in order; a text without words is Missing.

        Long texts are cut at the end.
        """
        encoded = [self._encode(text) for text in texts]
        # Some tokenizers make nothing of a text that is not blank, such as control characters.
        spoken = [index for index, text in enumerate(texts) if text.strip() and encoded[index]]

        batches = plan_batches(
            [len(encoded[index]) for index in spoken],
            budget=self._runtime.text_tokens,
            equal_lengths=self._equal_lengths,
        )
        rows = run_batches(
            batches, lambda batch: self._forward(self._model, [encoded[spoken[i]] for i in batch])
        )

        # `batches` counts in `spoken`, and `spoken` in `texts`.
        found = {spoken[index]: row.numpy().astype(np.float64) for index, row in rows.items()}
        blank = Missing("empty_transcript: holds no words")
        return [found.get(index, blank) for index in range(len(texts))]

    def _load(self, folder: Path, dtype: torch.dtype) -> Any:
        return load_model(
            AutoModelForSequenceClassification, folder, dtype=dtype, device=self._runtime.device
        )

    def _encode(self, text: str) -> list[int]:
        return list(
            self._tokenizer(text, truncation=True, max_length=self._max_tokens)["input_ids"]
        )

    @torch.inference_mode()
    def _forward(self, model: Any, encoded: Sequence[list[int]]) -> Tensor:
        """Class probabilities [B, C] of one batch, padded on the right."""
        longest = max(map(len, encoded))
        padding = self._tokenizer.pad_token_id or 0
        tokens = torch.tensor([ids + [padding] * (longest - len(ids)) for ids in encoded])
        mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in encoded])
        device = self._runtime.device
        output = model(input_ids=to_device(tokens, device), attention_mask=to_device(mask, device))
        return class_probabilities(output.logits, model.config)

    def _probe(self, model: Any) -> NDArray[np.float64]:
        rows = [self._forward(model, [self._encode(text)]).cpu().numpy() for text in PROBE_TEXTS]
        return np.concatenate(rows).astype(np.float64)

    def _is_disturbed_by_padding(self, model: Any) -> bool:
        short, long = (self._encode(text) for text in PROBE_TEXTS[:2])
        difference = (
            (self._forward(model, [short]) - self._forward(model, [short, long])[:1])
            .abs()
            .max()
            .item()
        )

        if difference > PADDING_TOLERANCE:
            log.info(
                "%s: padding moves a probability by %.5f; batches will be of equal length",
                self._name,
                difference,
            )

        return difference > PADDING_TOLERANCE


class TextLabeler:
    """Transcripts to distributions over the seven emotions."""

    def __init__(self, config: LabelerConfig) -> None:
        self._config = config
        self._classifier = TextClassifier("text")

    def setup(self, folder: Path, runtime: Runtime) -> Settled:
        """Load the checkpoint in `folder` and map its classes."""
        settled = self._classifier.setup(folder, runtime)
        self._mapping = EmotionMapping.of(
            self._classifier.id2label,
            drop_labels=self._config.drop_labels,
            label_names=self._config.label_names,
            checkpoint=self._config.checkpoint,
        )
        return settled

    @property
    def known_emotions(self) -> tuple[str, ...]:
        """The emotions that the checkpoint has a class for."""
        return self._mapping.known_emotions

    def label(self, texts: Sequence[str]) -> list[Outcome]:
        """One outcome for each transcript, in order."""
        rows = self._classifier.probabilities(texts)
        return [row if isinstance(row, Missing) else emotions(self._mapping, row) for row in rows]


def longest_text(tokenizer: Any, config: Any) -> int:
    """The number of tokens that the model can read.

    Tokenizers that were saved without a limit claim 1e30, models without one say -1.
    """
    # RoBERTa and similar models count positions from behind the padding index, and so have two
    # positions more than they can use.
    limits = [
        int(tokenizer.model_max_length),
        int(getattr(config, "max_position_embeddings", None) or 0) - 2,
    ]
    return min([limit for limit in limits if limit > 0] + [MAX_TOKENS])


def _load_tokenizer(folder: Path, config: Any) -> Any:
    # Why: with none of these files transformers makes an empty tokenizer, which knows no word.
    if not any(
        path for pattern in ("tokenizer.json", "vocab*", "*.model") for path in folder.glob(pattern)
    ):
        raise ConfigError(
            f"checkpoint {folder}: no usable tokenizer: expected tokenizer.json, vocab.* or *.model"
        )

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"checkpoint {folder}: no usable tokenizer: {error}") from error

    if len(tokenizer) > config.vocab_size:
        raise ConfigError(
            f"checkpoint {folder}: its tokenizer knows {len(tokenizer)} tokens, its model "
            f"{config.vocab_size}; expected the tokenizer that the model was trained with"
        )

    return tokenizer
