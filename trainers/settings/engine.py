"""Options about the optimization, which all recipes share. Nothing here imports torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive, require_share

DEFAULT_STEPS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Optimizer, precision, sharding, validation and checkpoints.

    The defaults suit the small encoder. README.md shows commands for pretrained encoders.
    """

    num_steps: int | None = option(
        help=f"Maximum number of optimizer steps; {DEFAULT_STEPS} where num_epochs is not given "
        "either.",
        default=None,
    )
    num_epochs: int | None = option(
        help="Number of passes over the training data, to be given in place of num_steps.",
        default=None,
    )
    batches_per_step: int = option(
        help="Number of batches that a step averages over, counted over all workers. More workers "
        "take the same step in less time.",
        default=1,
    )
    learning_rate: float = option(help="Peak of the learning rate.", default=1e-3)
    weight_decay: float = option(
        help="Weight decay of AdamW; 0: none. A recipe may exclude some parameters from it.",
        default=1e-4,
    )
    betas: tuple[float, ...] = option(
        help="Decay rates of AdamW's two running averages.", default=(0.9, 0.999)
    )
    epsilon: float = option(help="Number that AdamW adds to its denominator.", default=1e-8)
    warmup_share: float = option(
        help="Share of the steps in which the learning rate rises to its peak; 0: it begins there.",
        default=0.05,
    )
    schedule: Literal["cosine", "linear", "constant"] = option(
        help="Course of the learning rate after its rise. cosine and linear: it falls to 0; "
        "constant: it stays at the peak.",
        default="cosine",
    )
    extend: Literal["rewarm", "constant"] | None = option(
        help="Course of the learning rate when --resume gives a run another number of steps. "
        "rewarm: it rises to the peak and falls again over the steps that are left; constant: it "
        "stays at the rate that the run had reached.",
        default=None,
    )
    clip_norm: float = option(
        help="Maximum norm of the gradients; larger gradients are scaled down to it.", default=1.0
    )
    precision: Literal["float32", "bfloat16"] = option(
        help="Number format of weights and activations.", default="float32"
    )
    gradient_checkpointing: bool = option(
        help="Compute the encoder's layers again in the backward pass, which saves the memory for "
        "their values. HuBERT base on a CPU takes 1.45 times the time and .6 of the memory.",
        default=False,
    )
    zero_stage: int = option(
        help="Stage of DeepSpeed ZeRO: what is divided among the workers. 0: nothing; 1: the "
        "optimizer's state; 2: the gradients too; 3: the weights too.",
        default=0,
    )
    validate_every: int = option(help="Number of steps between validations.", default=100)
    checkpoint_every: int = option(
        help="Number of steps between checkpoints. A validation that is better than all before "
        "also writes one.",
        default=200,
    )
    keep_checkpoints: int = option(
        help="Number of complete checkpoints to keep; older ones are removed.", default=2
    )
    patience: int = option(
        help="Number of validations in a row without improvement after which training stops; "
        "0: it never stops early.",
        default=0,
    )
    log_every: int = option(
        help="Number of steps between lines in metrics.jsonl and points in TensorBoard.", default=10
    )
    trackers: tuple[str, ...] = option(
        help="Services that record the run in addition to TensorBoard: mlflow, wandb.", default=()
    )
    seed: int = option(
        help="Seed of the initial weights, the order of training and dropout.", default=0
    )

    @property
    def max_steps(self) -> int:
        """The value of `num_steps`, or its default; of no use where `num_epochs` is given."""
        return DEFAULT_STEPS if self.num_steps is None else self.num_steps

    def __post_init__(self) -> None:
        require_positive(
            self, "num_steps", "batches_per_step", "learning_rate", "clip_norm", "log_every"
        )
        require_positive(self, "validate_every", "checkpoint_every", "keep_checkpoints")
        require_positive(self, "num_epochs", "epsilon")

        if self.num_epochs is not None and self.num_steps is not None:
            raise ConfigError(
                f"num_epochs: got {self.num_epochs} and num_steps {self.num_steps}; give one of "
                "them"
            )

        if len(self.betas) != 2 or not 0 <= min(self.betas) <= max(self.betas) < 1:
            raise ConfigError(f"betas: got {self.betas}, expected two shares below 1")
        if not 0 <= self.zero_stage <= 3:
            raise ConfigError(f"zero_stage: got {self.zero_stage}, expected 0, 1, 2 or 3")
        require_share(self, "warmup_share")
        require_at_least(self, 0, "weight_decay")

        unknown = sorted(set(self.trackers) - {"mlflow", "wandb"})
        if unknown:
            raise ConfigError(f"trackers: got {', '.join(unknown)}, expected mlflow or wandb")
