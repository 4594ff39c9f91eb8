"""Which encoder makes frames, which of its layers are kept, and the fingerprint of both.

Imports no torch, so that the driver can name features that are already there.
"""

import hashlib
from dataclasses import dataclass

from actors.embedding.config import EmbedderConfig, folder_of
from actors.inference.checkpoints import weight_digest
from shards.config import ConfigError

FRAMES_VERSION = 1
FINGERPRINT_DIGITS = 32
LAYER_FORMS = "last, last4, all, or numbers such as 0,6,12"
LAST, LAST_FOUR, ALL = "last", "last4", "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChoice:
    """The hidden states to keep: a word, or their numbers; and whether extra tokens are kept too.

    State 0 is what enters the first transformer layer; of an encoder with L layers, state L is its
    output.
    """

    text: str
    tokens: bool = False

    def __post_init__(self) -> None:
        if self.text in (LAST, LAST_FOUR, ALL):
            return

        parts = self.text.split(",")
        if not all(part.isascii() and part.isdigit() for part in parts):
            raise ConfigError(f"--layers: got {self.text!r}, expected {LAYER_FORMS}")
        if len(set(map(int, parts))) != len(parts):
            raise ConfigError(f"--layers: got {self.text}, expected each layer once")

    def numbers(self, num_states: int) -> tuple[int, ...]:
        """The numbers of the states to keep, of an encoder that has `num_states`.

        Raises ConfigError when the encoder has fewer.
        """
        every = tuple(range(num_states))
        if self.text in (LAST, ALL):
            return every if self.text == ALL else every[-1:]

        wanted = (-4, -1) if self.text == LAST_FOUR else tuple(map(int, self.text.split(",")))
        if max(max(wanted) + 1, -min(wanted)) > num_states:
            raise ConfigError(
                f"--layers {self.text}: the encoder has the states 0 to {num_states - 1} (0 is "
                "what enters its first layer); choose among these"
            )
        return every[-4:] if self.text == LAST_FOUR else wanted


def features_fingerprint(encoder: EmbedderConfig, layers: LayerChoice) -> str:
    """The text that names this encoder with these layers and nothing else.

    Downloads a hub checkpoint if need be.
    """
    weights = encoder.encoder if encoder.is_spectral else weight_digest(folder_of(encoder))
    parts = [f"frames {FRAMES_VERSION}", weights, f"layers {layers.text}"]
    if layers.tokens:
        parts.append("tokens")

    return "features:" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:FINGERPRINT_DIGITS]
