"""What a recognizer must have decoded of a sample, and the options that its modality rules out."""

from actors.predicting.config import PredictConfig
from actors.predicting.recognizers import PieceRecognizer
from actors.reading.reader import Needs
from shards.config import ConfigError


def needs_of(recognizer: PieceRecognizer) -> Needs:
    """What a reader must decode; face features come with every sample that has them."""
    return Needs(audio=recognizer.modality == "audio", vision=False, clip=recognizer.clip_format)


def require_usable(config: PredictConfig, recognizer: PieceRecognizer) -> None:
    """Raise ConfigError for an input or an option that only recognizers of sound can use."""
    modality = recognizer.modality
    if modality == "audio":
        return

    found = f"--checkpoint {config.checkpoint}: is a recognizer of {modality}"
    if modality == "face" and config.shards is None:
        raise ConfigError(
            f"{found}, and only shards hold face features (face.npy), expected --shards; make "
            "them with `emostream import` from a table with a column `face`"
        )
    if config.window is not None:
        raise ConfigError(
            f"{found}, and --window cuts sound only, expected none: a clip is spread over the "
            "whole utterance, as in training; cut long recordings first"
        )
    if config.pldc is not None:
        raise ConfigError(
            f"{found}, and --pldc needs a speaker table by the same encoder, which `emostream "
            "embed` makes for sound only; `emostream evaluate --pldc` calibrates packed shards of "
            "every modality"
        )
