"""Writes and reads the folder of an encoder and, if it was personalized, of its speakers.

`config.json` and `model.safetensors` are a plain encoder's, which transformers can read. PAPT adds
`speakers.safetensors` (embeddings, and vectors under the original encoder), `speakers.json` (names,
fusion) and `original/`, the encoder that training started from, which finds the proxies of unseen
speakers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from shards.config import ConfigError
from shards.storage.documents import read_json, write_json
from shards.storage.files import flush_tree
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.loading import load_encoder
from trainers.models.personal.speaker_embedding import SpeakerEmbedding, SpeakerFusion

ORIGINAL_NAME = "original"
_WEIGHTS_NAME, _NAMES_NAME = "speakers.safetensors", "speakers.json"


@dataclass(frozen=True)
class SpeakerState:
    """What PAPT learned beside the encoder.

    `names` are the speakers in the order of the embeddings.
    """

    names: list[str]
    fusion: SpeakerFusion
    embedding: SpeakerEmbedding
    original: LayerwiseEncoder

    def described(self) -> dict[str, Any]:
        """The fields of a recognizer's configuration that describe these speakers."""
        width = int(self.embedding.vectors.shape[1])
        return {
            "speakers": self.names,
            "speaker_fusion": self.fusion,
            "speaker_vector_width": width,
        }


def save_encoder(
    encoder: LayerwiseEncoder, folder: Path, speakers: SpeakerState | None = None
) -> None:
    """Write the encoder and its speakers in float32, and flush all files to the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = type(encoder.model)(encoder.model.config)
    plain.load_state_dict(encoder.model.state_dict())
    plain.save_pretrained(folder)

    if speakers is not None:
        weights = {
            name: value.float().cpu().contiguous()
            for name, value in speakers.embedding.state_dict().items()
        }
        save_file(weights, folder / _WEIGHTS_NAME)
        write_json(folder / _NAMES_NAME, {"names": speakers.names, "fusion": speakers.fusion})
        save_encoder(speakers.original, folder / ORIGINAL_NAME)

    flush_tree(folder)


def load_speakers(folder_or_name: str) -> SpeakerState | None:
    """Load the speakers of an encoder that PAPT exported; None for any other encoder.

    Raises ConfigError when a part is missing.
    """
    folder = Path(folder_or_name)
    if not (folder / _NAMES_NAME).is_file():
        return None

    try:
        described = read_json(folder / _NAMES_NAME)
        weights = load_file(folder / _WEIGHTS_NAME)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"encoder.checkpoint {folder}: its speakers cannot be read: {error}"
        ) from error

    table, vectors = weights["table.weight"], weights["vectors"]
    embedding = SpeakerEmbedding(len(table), table.shape[1], vectors.shape[1], described["fusion"])
    embedding.load_state_dict(weights)

    return SpeakerState(
        described["names"],
        described["fusion"],
        embedding,
        load_encoder(str(folder / ORIGINAL_NAME)),
    )
