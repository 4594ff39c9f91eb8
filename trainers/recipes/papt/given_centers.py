"""Reads k-means centers that are given, in place of those fitted to the corpus at hand.

The pseudo-labels of HuBERT large came from the published quantizer: 500 clusters of layer 9 of
HuBERT base. Published quantizers are pickles (joblib), which run code when they are read, so none
is read here: their owner converts them once.

Shapes: L labels (clusters), F features.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from shards.config import ConfigError

PICKLES = (".bin", ".km", ".joblib", ".pkl", ".pickle", ".pt", ".pth")
CONVERSION = (
    "python -c \"import joblib, numpy; numpy.save('centers.npy', "
    "joblib.load('FILE').cluster_centers_)\""
)


def read_centers(path: str) -> NDArray[np.float32]:
    """The centers [L, F] in a .npy file, or in a .safetensors file that holds one tensor.

    Raises ConfigError for a file of another kind, and when it holds no finite matrix.
    """
    file = Path(path)
    if file.suffix in PICKLES:
        raise ConfigError(
            f"model.label_centers {path}: got a pickle, which runs code when it is read; expected "
            f".npy or .safetensors. Convert it where you trust it: {CONVERSION}"
        )
    if file.suffix not in (".npy", ".safetensors"):
        raise ConfigError(
            f"model.label_centers: got {path}, expected a .npy or a .safetensors file"
        )
    if not file.is_file():
        raise ConfigError(f"model.label_centers {path}: no such file; check the path")

    try:
        centers = _only_tensor(file) if file.suffix == ".safetensors" else np.load(file)
    except (ValueError, EOFError, SafetensorError) as error:
        raise ConfigError(f"model.label_centers {path}: cannot be read: {error}") from error

    if centers.ndim != 2 or not np.isfinite(centers).all():
        raise ConfigError(
            f"model.label_centers {path}: got an array of shape {list(centers.shape)}, expected "
            "finite numbers [clusters, features]"
        )
    return np.ascontiguousarray(centers, dtype=np.float32)


def _only_tensor(file: Path) -> NDArray[np.float32]:
    tensors = load_file(file)
    if len(tensors) != 1:
        raise ValueError(f"got the tensors {', '.join(sorted(tensors))}, expected one")

    (only,) = tensors.values()
    return only
