"""The encoder that a training without labels starts from, whatever kind of checkpoint holds it.

Such a training needs an encoder alone. What else a run has exported, a head, P or the embeddings of
speakers, would be lost, which is refused unless it is allowed.
"""

from collections.abc import Callable

from torch import Tensor

from shards.config import ConfigError
from shards.loading.loader import BatchReader
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder, require_modality
from trainers.models.encoders.sequence import SequenceEncoder, SequenceEncoderConfig
from trainers.models.parts.partial_start import require_whole_start
from trainers.models.personal.adapted_encoder import load_speakers
from trainers.models.recognizer import is_recognizer
from trainers.models.trained import load_trained
from trainers.preparation.small_encoder import set_statistics, small_encoder_config
from trainers.settings.encoder import EncoderConfig


def load_start(checkpoint: str, revision: str | None, *, allow_partial: bool) -> LayerwiseEncoder:
    """The encoder of a checkpoint: an encoder, or the export of any recipe.

    Raises ConfigError for what cannot be loaded, and for an export with more than an encoder unless
    a partial start is allowed.
    """
    encoder, beside = _parts(checkpoint, revision)
    require_whole_start(
        beside,
        checkpoint,
        ["this recipe starts from an encoder alone"],
        allow_partial=allow_partial,
    )
    return encoder


def _parts(checkpoint: str, revision: str | None) -> tuple[LayerwiseEncoder, dict[str, Tensor]]:
    """The encoder, and the tensors that the export holds beside it."""
    if not is_recognizer(checkpoint):
        speakers = load_speakers(checkpoint)
        tensors = {} if speakers is None else speakers.embedding.state_dict()
        beside = {f"speakers.{name}": tensor for name, tensor in tensors.items()}
        return load_encoder(checkpoint, revision), beside

    try:
        model = load_trained(checkpoint).model
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"encoder.checkpoint: {error}") from error

    return model.encoder, {
        f"{name}.{key}": tensor
        for name, part in model.named_children()
        if name != "encoder"
        for key, tensor in part.state_dict().items()
    }


def first_sound_encoder(
    options: EncoderConfig,
    make_reader: Callable[[], BatchReader],
    num_utterances: int,
    *,
    seed: int,
    allow_partial: bool,
) -> LayerwiseEncoder:
    """The encoder of sound that training starts from: of a checkpoint, or a small one.

    A small one knows the statistics of the `num_utterances` that a reader reads. Raises ConfigError
    as `load_start` does, and for an encoder of another modality.
    """
    if options.checkpoint is not None:
        encoder = load_start(options.checkpoint, options.revision, allow_partial=allow_partial)
        require_modality(encoder, "audio")
        return encoder

    reader = make_reader()
    sizes = small_encoder_config(options, "audio", reader)
    encoder = LayerwiseEncoder(SequenceEncoder(SequenceEncoderConfig(**sizes)))
    set_statistics(encoder, reader, num_utterances, seed=seed)
    return encoder
