"""What makes a shard's table of predictions: the weights, and the options that change an answer.

The name of a table holds this digest, so that a finished shard is recognized by name, and another
checkpoint or window makes another table. Imports no torch, so that the driver can name it.
"""

import hashlib
import json
from pathlib import Path

from actors.inference.checkpoints import weight_digest
from actors.predicting.config import PredictConfig
from shards.config import ConfigError

# A model with speaker embeddings holds the encoder that finds proxies under this name.
ORIGINAL_NAME = "original"
VERSION = 1  # of how recordings become predictions


def maker_of(config: PredictConfig) -> str:
    """The digest of the checkpoint and the options.

    Raises ConfigError when --checkpoint is no folder of safetensors.
    """
    folder = Path(config.checkpoint)
    if not folder.is_dir():
        raise ConfigError(
            f"--checkpoint {config.checkpoint}: no folder has this name; expected an exported "
            "model such as RUN/best"
        )

    options = [config.window, config.hop or config.window, config.set_size, config.seed]
    weights = [weight_digest(one) for one in (folder, folder / ORIGINAL_NAME) if one.is_dir()]
    parts = [VERSION, *weights, *options, config.pldc is not None]
    return "predict:" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()
