"""Checkpoints for benchmarks, in place of large models: real architectures with random weights.

Speed does not depend on the weights.
"""

from pathlib import Path
from typing import Any

from shards.emotions import EMOTIONS

# As published; HuBERT base has the values that a size does not name.
SIZES: dict[str, dict[str, Any]] = {
    "base": {},
    "large": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "do_stable_layer_norm": True,
    },
}
# Why not 0.02: 0.3 spreads the logits by about 2, as a fine-tuned head does; 0.02 hides any drift.
HEAD_STD = 0.3


def write_hubert(folder: Path, *, size: str = "base", num_layers: int | None = None) -> Path:
    """Write a HuBERT classifier whose layer-norm feature extractor padding cannot change.

    The extractor is that of HuBERT large. `num_layers` makes the model shallower than its size, for
    a short run.
    """
    import torch
    from transformers import HubertConfig, HubertForSequenceClassification, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    depth = {} if num_layers is None else {"num_hidden_layers": num_layers}
    config = HubertConfig(
        **(SIZES[size] | depth),
        feat_extract_norm="layer",
        conv_bias=True,
        id2label=dict(enumerate(EMOTIONS)),
        label2id={emotion: number for number, emotion in enumerate(EMOTIONS)},
    )

    model = HubertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=HEAD_STD)

    model.save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True).save_pretrained(folder)
    return folder
