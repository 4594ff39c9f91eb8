"""How any recipe is optimized; without torch."""

from dataclasses import dataclass
from typing import Literal

from shards.config import ConfigError, option, require_at_least, require_positive, require_share

DEFAULT_STEPS = 800


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Optimization, precision, sharding, checkpoints. The defaults train the small encoder; the
    papers' are in docs.
    """

    num_steps: int = option(help="optimizer steps at most", default=DEFAULT_STEPS)
    num_epochs: int | None = option(
        help="in place of num_steps: as many steps as so many passes over the training data take",
        default=None,
    )
    batches_per_step: int = option(
        help="batches a step averages over, all workers together: more workers do the same in less "
        "time",
        default=1,
    )
    learning_rate: float = option(help="peak", default=1e-3)
    weight_decay: float = option(help="AdamW's; a recipe may spare some parameters", default=1e-4)
    betas: tuple[float, ...] = option(
        help="AdamW's two decay rates of averages", default=(0.9, 0.999)
    )
    epsilon: float = option(help="AdamW's, added to the denominator", default=1e-8)
    warmup_share: float = option(help="share of the steps in which the rate rises", default=0.05)
    schedule: Literal["cosine", "linear", "constant"] = option(
        help="what follows the rise", default="cosine"
    )
    clip_norm: float = option(help="gradients are scaled to at most this norm", default=1.0)
    precision: Literal["float32", "bfloat16"] = option(
        help="of weights and activations", default="float32"
    )
    gradient_checkpointing: bool = option(
        help="compute the encoder's layers again in the backward pass in place of keeping what "
        "they computed (HuBERT base on a CPU: 1.45 times the time, .6 of the memory)",
        default=False,
    )
    zero_stage: int = option(help="DeepSpeed ZeRO: what is divided among the workers", default=0)
    validate_every: int = option(help="steps between validations", default=100)
    checkpoint_every: int = option(
        help="steps between checkpoints; one more is written whenever validation is better",
        default=200,
    )
    keep_checkpoints: int = option(help="complete checkpoints kept", default=2)
    patience: int = option(
        help="stop after this many validations without improvement; 0: never", default=0
    )
    log_every: int = option(help="steps between lines in metrics.jsonl and TensorBoard", default=10)
    trackers: tuple[str, ...] = option(help="beside TensorBoard: mlflow, wandb", default=())
    seed: int = option(help="initial weights, order, dropout", default=0)

    def __post_init__(self) -> None:
        require_positive(
            self, "num_steps", "batches_per_step", "learning_rate", "clip_norm", "log_every"
        )
        require_positive(self, "validate_every", "checkpoint_every", "keep_checkpoints")
        require_positive(self, "num_epochs", "epsilon")
        if self.num_epochs is not None and self.num_steps != DEFAULT_STEPS:
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
