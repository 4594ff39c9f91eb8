"""The processes that train together, and what DeepSpeed is told about them."""

import os
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed import HashStore  # type: ignore[attr-defined] # public, but re-exported without saying so

from trainers.settings.engine import EngineConfig


def join_group() -> None:
    """Join the process group torchrun or Ray Train describe, or be a group of one.

    It is not left again: DeepSpeed remembers groups by themselves and cannot use another in the
    same process.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        # Before the first barrier: NCCL would put every process of a machine on its first GPU.
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        _do_without_extension()
    if distributed.is_initialized():
        return
    backend = "nccl" if has_gpu else "gloo"
    if "RANK" in os.environ:
        distributed.init_process_group(backend)
    else:
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it even when it is alone
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _do_without_extension() -> None:
    """Keep DeepSpeed from compiling its shared-memory reduction at start-up: gloo does the same,
    without a compiler.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(config: EngineConfig, world_size: int, *, universal: bool) -> dict[str, Any]:
    """What DeepSpeed is told."""
    return {
        "train_micro_batch_size_per_gpu": 1,  # a batch is one of ours, whatever it holds
        "gradient_accumulation_steps": config.batches_per_step // world_size,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bfloat16"},
        "gradient_clipping": config.clip_norm,
        "steps_per_print": 10**9,
        "checkpoint": {"load_universal": universal},
    }
