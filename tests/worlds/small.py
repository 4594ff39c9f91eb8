"""A corpus small enough to label it many times in tests, and an untrained panel.

The corpus has tones, faces and words. The labelers are real checkpoints with random weights: tests
check that the same bytes come out, not that they are right.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from shards.emotions import EMOTIONS
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample, encode_sample
from shards.storage.files import atomic_write
from shards.tar.reader import TarWriter

NUM_FACE_VALUES = 8
WORDS = ("the", "door", "is", "open", "and", "nobody", "cares", "wonderful", "awful", "rain")


@dataclass(frozen=True, slots=True)
class SmallWorld:
    """The places of the small corpus and its panel."""

    shards: Path
    panel: Path
    num_utterances: int

    @property
    def glob(self) -> str:
        """The shards as a pattern."""
        return f"{self.shards}/*.tar"


def make_sample(number: int, *, seconds: float = 0.6) -> Sample:
    """Make a tone whose pitch, face and words follow from `number`."""
    generator = np.random.default_rng(number)
    times = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    tone = 0.3 * np.sin(
        2 * np.pi * (120 + 10 * number % 400) * times
    ) + 0.01 * generator.standard_normal(len(times))

    return Sample(
        key=f"utterance-{number:05d}",
        audio=encode_flac(tone.astype(np.float32)),
        audio_format="flac",
        face_features=generator.standard_normal((6, NUM_FACE_VALUES)).astype(np.float32),
        transcript=" ".join(generator.choice(WORDS, size=5)),
        metadata={"speaker": f"speaker-{number % 5}", "emotion": EMOTIONS[number % 7]},
    )


def write_shard(path: Path, samples: list[Sample]) -> None:
    """Write one tar of `samples`."""
    with atomic_write(str(path)) as stream:
        writer = TarWriter(stream)
        for sample in samples:
            writer.add(sample.key, encode_sample(sample))
        writer.close()


def make_small_world(folder: Path, *, num_shards: int = 8, per_shard: int = 6) -> SmallWorld:
    """Write the shards, the checkpoints and the panel file below `folder`."""
    shards = folder / "shards"
    shards.mkdir(parents=True)
    for shard in range(num_shards):
        samples = [make_sample(shard * per_shard + index) for index in range(per_shard)]
        write_shard(shards / f"small-{shard:03d}.tar", samples)

    panel = folder / "panel.yaml"
    panel.write_text(yaml.safe_dump(write_checkpoints(folder / "checkpoints")))
    return SmallWorld(shards, panel, num_shards * per_shard)


def write_checkpoints(
    folder: Path, *, seed: int = 0, num_face_values: int = NUM_FACE_VALUES
) -> dict[str, object]:
    """Write three labelers with random weights, and return the panel that names them."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from trainers.models.classifiers.face_sequence import FaceSequenceClassifier, FaceSequenceConfig
    from trainers.models.classifiers.mel import MelClassifier, MelClassifierConfig

    torch.manual_seed(seed)
    labels: dict[str, Any] = {
        "id2label": dict(enumerate(EMOTIONS)),
        "label2id": {name: i for i, name in enumerate(EMOTIONS)},
    }

    MelClassifier(MelClassifierConfig(**labels)).save_pretrained(folder / "voice")
    FaceSequenceClassifier(
        FaceSequenceConfig(feature_size=num_face_values, **labels)
    ).save_pretrained(folder / "face")

    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    )
    tokenizer.save_pretrained(folder / "words")

    small = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = BertConfig(vocab_size=len(vocabulary), max_position_embeddings=32, **small, **labels)
    BertForSequenceClassification(config).save_pretrained(folder / "words")

    return {
        "audio": {"checkpoint": str(folder / "voice")},
        "vision": {"checkpoint": str(folder / "face")},
        "text": {"checkpoint": str(folder / "words")},
        "precision": "float32",
    }
