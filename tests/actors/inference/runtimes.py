"""A CPU as the labelers' tests compute on it."""

from typing import Literal

import torch

from actors.inference.runtime import Runtime


def cpu_runtime(
    *,
    precision: Literal["auto", "float32", "bfloat16"] = "float32",
    max_drift: float = 0.02,
    batch_seconds: float = 0.0,
    text_tokens: int = 64,
    face_frames: int = 8,
) -> Runtime:
    """One thread, float32 and one recording at a time, unless a test asks for something else."""
    torch.set_num_threads(1)
    return Runtime(
        device=torch.device("cpu"),
        precision=precision,
        max_drift=max_drift,
        audio_samples=round(batch_seconds * 16_000),
        text_tokens=text_tokens,
        face_frames=face_frames,
    )
