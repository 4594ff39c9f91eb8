"""Makes the baseline that a configuration names."""

from trainers.models.two_stage.baselines.auxformer import AuxFormer
from trainers.models.two_stage.baselines.mult import MultimodalTransformer
from trainers.models.two_stage.baselines.sfav import SelfAttentionFusion
from trainers.models.two_stage.baselines.streams import Baseline
from trainers.models.two_stage.baselines.tsltm import TransformerLstm
from trainers.models.two_stage.baselines.vavl import VersatileLearner
from trainers.models.two_stage.configuration import TwoStageConfig


def build_baseline(config: TwoStageConfig) -> Baseline | None:
    """A new baseline; None for what joins branches. Raises ValueError for an unknown name."""
    sizes, num_classes = config.shared_sizes, len(config.names)
    layers, head_width = config.num_joint_layers, config.head_width

    match config.architecture:
        case "branches":
            return None
        case "vavl":
            return VersatileLearner(
                sizes,
                num_classes,
                num_shared_layers=config.num_shared_layers,
                head_width=head_width,
            )
        case "auxformer":
            return AuxFormer(sizes, num_classes, num_layers=layers, head_width=head_width)
        case "mult":
            return MultimodalTransformer(sizes, num_classes, num_layers=layers)
        case "sfav":
            return SelfAttentionFusion(
                sizes, num_classes, fusion=config.sfav_fusion, head_width=head_width
            )
        case "tsltm":
            return TransformerLstm(sizes, num_classes, num_layers=layers, head_width=head_width)

    raise ValueError(
        f"architecture: got {config.architecture}, expected one that this version knows; load the "
        "checkpoint with the version that wrote it"
    )
