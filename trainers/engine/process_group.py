"""The group of processes that train together, and the settings that DeepSpeed gets for it."""

import os
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed import HashStore  # type: ignore[attr-defined] # public, but re-exported without saying so

from trainers.settings.engine import EngineConfig


def join_group() -> None:
    """Join the process group that torchrun or Ray Train describes; otherwise make a group of one.

    A process never leaves its group: DeepSpeed keeps references to the first group that it sees and
    cannot use another one in the same process.
    """
    has_gpu = torch.cuda.is_available()
    if has_gpu:
        # This comes before the first barrier, because NCCL would otherwise put every process of a
        # machine on the machine's first GPU.
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
        # DeepSpeed reads LOCAL_RANK even in a group of one.
        os.environ.setdefault("LOCAL_RANK", "0")
        distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _do_without_extension() -> None:
    """Keep DeepSpeed from compiling its shared-memory reduction when it starts on a CPU.

    gloo reduces the same numbers and needs no compiler. The table below is DeepSpeed's own list of
    compatible operators; DeepSpeed has no public setter for it.
    """
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def deepspeed_config(config: EngineConfig, world_size: int, *, universal: bool) -> dict[str, Any]:
    """The settings of DeepSpeed; `universal` says whether a universal checkpoint is loaded."""
    return {
        # DeepSpeed counts batches, and one batch of a recipe counts as 1, no matter how many
        # utterances it holds.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": config.batches_per_step // world_size,
        "zero_optimization": {"stage": config.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": config.precision == "bfloat16"},
        "gradient_clipping": config.clip_norm,
        "steps_per_print": 10**9,
        "checkpoint": {"load_universal": universal},
    }
