"""Which device and number format a model runs in, decided by measurement and the same on every run.

bfloat16 halves the memory and is two to three times as fast where the hardware has it. It also
changes probabilities a little; how much depends on the checkpoint. So with `auto` each model runs
on a fixed probe input in both formats, and keeps bfloat16 only while no probability moves by more
than the panel's bound. The probe is made from a seed: if it were the first real utterances, two
workers could decide differently about the same panel. float16 was left out: its narrow range
overflows in wav2vec 2.0 feature extractors.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from actors.inference.config import BatchingConfig, Precision
from shards.media.sound_format import SAMPLE_RATE_HZ

log = logging.getLogger(__name__)

Loader = Callable[[torch.dtype], Any]
Probe = Callable[[Any], NDArray[np.float64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The device the panel computes on, the precision asked for, and the budgets of a batch."""

    device: torch.device
    precision: Precision
    max_drift: float
    audio_samples: int  # 0: one window at a time
    text_tokens: int
    face_frames: int

    @classmethod
    def of(cls, precision: Precision, max_drift: float, batching: BatchingConfig) -> "Runtime":
        """The runtime on the first GPU, or on the CPU where there is none.

        A budget that `batching` does not give is the device's default.
        """
        has_gpu = torch.cuda.is_available()
        return cls(
            device=torch.device("cuda" if has_gpu else "cpu"),
            precision=precision,
            max_drift=max_drift,
            audio_samples=round(_audio_seconds(batching, has_gpu) * SAMPLE_RATE_HZ),
            text_tokens=batching.text_tokens or (16_384 if has_gpu else 512),
            face_frames=batching.face_frames or (256 if has_gpu else 8),
        )


@dataclass(frozen=True, slots=True)
class Settled:
    """A loaded model and the format it was settled on.

    `drift` is how far bfloat16 moved a probability on the probe, None where this was not measured.
    """

    model: Any
    dtype: torch.dtype
    drift: float | None

    @property
    def precision(self) -> str:
        """The format's name as the panel configuration spells it."""
        return str(self.dtype).removeprefix("torch.")


def prepare_torch(num_threads: int) -> None:
    """Set this process's torch to `num_threads` and to repeatable arithmetic in true float32."""
    torch.set_num_threads(num_threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies bfloat16 in hardware (emulation is slower than float32)."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # torch 2.11 cannot say; float32 is the safe answer there.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(
        capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
    )


def settle(name: str, runtime: Runtime, model: Any, load: Loader, probe: Probe) -> Settled:
    """Keep the float32 `model`, or `load` it in bfloat16 if the panel's settings allow it.

    `probe` gives a model's output on a fixed input, which shows what bfloat16 changes. A bfloat16
    that the panel forces is kept beyond the bound too, with a warning.
    """
    forced = runtime.precision == "bfloat16"
    if runtime.precision == "float32" or not (forced or has_bfloat16(runtime.device)):
        return Settled(model, torch.float32, None)

    half = load(torch.bfloat16)
    drift = float(np.abs(probe(half) - probe(model)).max())

    if drift <= runtime.max_drift:
        return Settled(half, torch.bfloat16, drift)

    if forced:
        log.warning(
            "%s: bfloat16 moves a probability by %.4f (bound %.4f)", name, drift, runtime.max_drift
        )
        return Settled(half, torch.bfloat16, drift)

    log.info(
        "%s: runs in float32, as bfloat16 moves a probability by %.4f (bound %.4f)",
        name,
        drift,
        runtime.max_drift,
    )
    return Settled(model, torch.float32, drift)


def _audio_seconds(batching: BatchingConfig, has_gpu: bool) -> float:
    if batching.audio_seconds is not None:
        return batching.audio_seconds
    # Measured on a CPU: padded buckets took 1.3 times as long as the plain pipeline, single
    # utterances 0.8 times as long.
    return 480.0 if has_gpu else 0.0
