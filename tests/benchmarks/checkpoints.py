"""Large-model stand-ins for benchmarks: real architectures, random weights (speed does not depend on those)."""

from pathlib import Path

from shards.emotions import EMOTIONS


def write_hubert(folder: Path, *, num_layers: int = 12) -> Path:
    """A HuBERT classifier of base width with the layer-norm feature extractor, which padding cannot change."""
    import torch
    from transformers import HubertConfig, HubertForSequenceClassification, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    config = HubertConfig(
        num_hidden_layers=num_layers,
        feat_extract_norm="layer",
        conv_bias=True,
        id2label=dict(enumerate(EMOTIONS)),
        label2id={emotion: number for number, emotion in enumerate(EMOTIONS)},
    )
    HubertForSequenceClassification(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder
