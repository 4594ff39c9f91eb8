"""Which device a model runs on."""

import torch


def default_device() -> torch.device:
    """This process's GPU if there is one, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
