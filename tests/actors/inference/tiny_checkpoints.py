"""Checkpoints of every family, with a few thousand random weights each.

They are written as their authors publish them. The last layer has large weights, so that
probabilities spread over the classes and a change in the input shows.
"""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Data2VecAudioConfig,
    Data2VecAudioForSequenceClassification,
    HubertConfig,
    HubertForSequenceClassification,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForSequenceClassification,
    WavLMConfig,
    WavLMForSequenceClassification,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
)

from shards.emotions import EMOTIONS
from trainers.models.classifiers.face_sequence import FaceSequenceClassifier, FaceSequenceConfig
from trainers.models.classifiers.mel import MelClassifier, MelClassifierConfig
from trainers.models.classifiers.odyssey import OdysseyClassifier, OdysseyConfig

SEVEN = dict(enumerate(EMOTIONS))
ODYSSEY_LABELS = ("Angry", "Sad", "Happy", "Surprise", "Fear", "Disgust", "Contempt", "Neutral")
WORDS = (
    "the",
    "door",
    "is",
    "open",
    "and",
    "nobody",
    "cares",
    "wonderful",
    "awful",
    "rain",
    ".",
    ",",
    "!",
)

_SPEECH = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 24,
}
_FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "wav2vec2_layer": (
        Wav2Vec2Config,
        Wav2Vec2ForSequenceClassification,
        {"feat_extract_norm": "layer"},
    ),
    "wav2vec2_group": (
        Wav2Vec2Config,
        Wav2Vec2ForSequenceClassification,
        {"feat_extract_norm": "group"},
    ),
    "hubert": (
        HubertConfig,
        HubertForSequenceClassification,
        {"feat_extract_norm": "layer", "conv_bias": True},
    ),
    "hubert_group": (HubertConfig, HubertForSequenceClassification, {"feat_extract_norm": "group"}),
    "wavlm": (
        WavLMConfig,
        WavLMForSequenceClassification,
        {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "num_buckets": 16},
    ),
    "wavlm_group": (
        WavLMConfig,
        WavLMForSequenceClassification,
        {"feat_extract_norm": "group", "num_buckets": 16},
    ),
    "data2vec": (
        Data2VecAudioConfig,
        Data2VecAudioForSequenceClassification,
        {"conv_pos_kernel_size": 7, "num_conv_pos_embeddings": 5},
    ),
}
AUDIO_FAMILIES = (*_FAMILIES, "mel", "odyssey")


def write_audio(folder: Path, family: str, id2label: dict[int, str] | None = None) -> Path:
    """An audio classifier of the family, with preprocessor_config.json if the family has one."""
    torch.manual_seed(7)

    if family == "mel":
        return _save(MelClassifier(MelClassifierConfig(**_labels(id2label or SEVEN))), folder)
    if family == "odyssey":
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        names = _labels(dict(enumerate(ODYSSEY_LABELS)))
        return _save(
            OdysseyClassifier(OdysseyConfig(mean=-8e-5, std=0.085, **sizes, **names)), folder
        )

    config, model, extra = _FAMILIES[family]
    is_layer = extra.get("feat_extract_norm", "layer") == "layer"
    Wav2Vec2FeatureExtractor(do_normalize=is_layer, return_attention_mask=is_layer).save_pretrained(
        folder
    )

    return _save(model(config(**{**_SPEECH, **extra, **_labels(id2label or SEVEN)})), folder)


def write_text(folder: Path, id2label: dict[int, str] | None = None) -> Path:
    """A BERT classifier and its word-level tokenizer, which read 24 tokens at most."""
    torch.manual_seed(8)
    vocabulary = {word: number for number, word in enumerate(("[PAD]", "[UNK]", *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)

    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    config = BertConfig(
        vocab_size=len(vocabulary),
        max_position_embeddings=26,
        **small,
        **_labels(id2label or SEVEN),
    )

    return _save(BertForSequenceClassification(config), folder)


def write_image(folder: Path, processor: dict[str, Any] | None = None) -> Path:
    """A ViT over 32 x 32 pixels, with the given preprocessor_config.json."""
    import json

    torch.manual_seed(9)
    small = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
    }
    model = ViTForImageClassification(
        ViTConfig(image_size=32, patch_size=8, **small, **_labels(SEVEN))
    )
    _save(model, folder)

    settings = processor or {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 32, "width": 32},
        "resample": 2,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.2, 0.3, 0.4],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_face_sequence(folder: Path, feature_size: int = 6) -> Path:
    """A classifier over `face.npy` features."""
    torch.manual_seed(10)
    model = FaceSequenceClassifier(FaceSequenceConfig(feature_size=feature_size, **_labels(SEVEN)))
    model.set_statistics(torch.linspace(-1, 1, feature_size), torch.linspace(0.5, 2, feature_size))
    return _save(model, folder)


def write_whisper(folder: Path, *, max_tokens: int = 12, languages: tuple[str, ...] = ()) -> Path:
    """A Whisper that hears two seconds at a time and stutters words of a toy vocabulary.

    It is English-only by default.
    """
    torch.manual_seed(11)
    spoken_in = tuple(f"<|{language}|>" for language in languages)
    special = (
        "<|endoftext|>",
        "<|startoftranscript|>",
        "<|transcribe|>",
        *spoken_in,
        "<|notimestamps|>",
    )

    # <|notimestamps|> comes last, as every token after it means a time.
    ordered = (*special[:-1], "[UNK]", *WORDS, special[-1])
    vocabulary = {word: number for number, word in enumerate(ordered)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token=special[0],
        bos_token=special[0],
        pad_token=special[0],
        unk_token="[UNK]",
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(special[1:])})

    config = WhisperConfig(
        vocab_size=len(vocabulary),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_source_positions=100,
        max_target_positions=max_tokens,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=1,
        init_std=0.6,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )

    model = WhisperForConditionalGeneration(config)
    whisper_settings: dict[str, Any] = {
        "max_length": max_tokens,
        "no_timestamps_token_id": vocabulary["<|notimestamps|>"],
        "task_to_id": {"transcribe": vocabulary["<|transcribe|>"]},
        "is_multilingual": bool(languages),
        "_from_model_config": False,  # else loading makes it anew, without any of this
    }
    if languages:
        whisper_settings["lang_to_id"] = {name: vocabulary[name] for name in spoken_in}

    # Why not `update`: it would skip the fields that only Whisper has.
    for name, value in whisper_settings.items():
        setattr(model.generation_config, name, value)

    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(chunk_length=2), tokenizer).save_pretrained(folder)
    return folder


def _labels(id2label: dict[int, str]) -> dict[str, Any]:
    return {"id2label": id2label, "label2id": {label: index for index, label in id2label.items()}}


def _save(model: Any, folder: Path) -> Path:
    heads = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    torch.nn.init.normal_(heads[-1].weight, std=3.0)
    model.save_pretrained(folder)
    return folder
