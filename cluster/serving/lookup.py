"""`emostream lookup`: who in a speaker index sounds most like a recording, a vector, or one of its
own speakers.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.exit_status import ExitStatus
from shards.config import ConfigError, option

if TYPE_CHECKING:
    from cluster.serving.client import Description, SearchResult, SpeakerClient, SpeakerIndexError

TOKEN_VARIABLE = "EMOSTREAM_TOKEN"  # noqa: S105 (a name, not a token)
MAX_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupConfig:
    """Options of `emostream lookup`."""

    server: str = option(help="HOST:PORT of `emostream serve`.")
    audio: tuple[str, ...] = option(default=(), help="Recordings of one speaker.")
    vector: str | None = option(default=None, help="A vector [D] as .npy.")
    speaker: str | None = option(
        default=None, help="A speaker of the index; is not its own neighbor."
    )
    k: int = option(default=5, help="How many speakers.")
    encoder: str | None = option(
        default=None,
        help="Encoder for --audio, the very one the index was made with; default: spectral, if it "
        "was.",
    )
    revision: str | None = option(default=None, help="Full commit of a hub encoder.")
    fingerprint: str | None = option(
        default=None,
        help="Fingerprint of the encoder that made --vector; default: taken to be the index's.",
    )
    tls_ca: str | None = option(
        default=None, help="Authority of the server's certificate, PEM; with it TLS is used."
    )
    tls_cert: str | None = option(default=None, help="Certificate of this client, PEM.")
    tls_key: str | None = option(default=None, help="Its private key, PEM.")
    timeout_seconds: float = option(default=10.0, help="For each call.")
    json: bool = option(default=False, help="Print JSON.")

    def __post_init__(self) -> None:
        asked = {"--audio": self.audio or None, "--vector": self.vector, "--speaker": self.speaker}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"got {' and '.join(given) or 'none'}, expected one of {', '.join(asked)}"
            )
        if not self.server.rpartition(":")[2].isdigit():
            raise ConfigError(
                f"--server: got {self.server}, expected HOST:PORT, as `emostream serve` prints it"
            )


def run_lookup(config: LookupConfig) -> int:
    """Ask, and print who was found; exit status 4 when the server refuses or does not answer."""
    from cluster.serving.client import SpeakerClient, SpeakerIndexError

    try:
        with SpeakerClient(
            config.server,
            token=os.environ.get(TOKEN_VARIABLE),
            ca=config.tls_ca,
            cert=config.tls_cert,
            key=config.tls_key,
            timeout_seconds=config.timeout_seconds,
        ) as client:
            description = client.describe()
            vector, client.fingerprint = _query(config, client, description)
            exclude = () if config.speaker is None else (config.speaker,)
            result = client.search(vector, config.k, exclude=exclude)
    except SpeakerIndexError as error:
        sys.stderr.write(f"emostream lookup: {config.server}: {error}{_remedy(error, config)}\n")
        return ExitStatus.UNFINISHED
    sys.stdout.write(_as_json(result) if config.json else _as_table(result, description))
    return 0


def _remedy(error: "SpeakerIndexError", config: LookupConfig) -> str:
    """What may help when the server cannot be reached at all."""
    if error.code not in ("UNAVAILABLE", "DEADLINE_EXCEEDED"):
        return ""
    tls = "" if config.tls_ca else ", and that it does not ask for TLS (--tls-ca)"
    return f"; check that `emostream serve` runs at {config.server}{tls}"


def _query(
    config: LookupConfig, client: "SpeakerClient", description: "Description"
) -> tuple[NDArray[np.float32], str]:
    """The vector to look for, and the fingerprint of the encoder that made it."""
    if config.speaker is not None:
        return client.get(config.speaker).vector, description.encoder_fingerprint
    if config.vector is not None:
        return _read_vector(config.vector), config.fingerprint or description.encoder_fingerprint
    return embed_recordings(config, description)


def _read_vector(path: str) -> NDArray[np.float32]:
    try:
        vector = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--vector {path}: cannot be read as .npy: {error}") from error
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise ConfigError(
            f"--vector {path}: got {vector.dtype} {vector.shape}, expected one vector of floats"
        )
    return np.asarray(vector, dtype=np.float32)


def embed_recordings(
    config: LookupConfig, description: "Description"
) -> tuple[NDArray[np.float32], str]:
    """The mean vector of the recordings, by the index's encoder. Raises ConfigError when that
    cannot be.
    """
    from actors.embedding.config import SPECTRAL_FINGERPRINT, EmbedderConfig, fingerprint
    from actors.embedding.embedders import make_embedder
    from actors.inference.outcomes import Missing
    from shards.errors import BadSample
    from shards.media.audio import decode_audio

    encoder = config.encoder
    if encoder is None:
        if description.encoder_fingerprint != SPECTRAL_FINGERPRINT:
            raise ConfigError(
                f"--encoder: the index was made with {description.encoder} "
                f"({description.encoder_fingerprint}); name that encoder's folder or hub name here"
            )
        encoder = "spectral"
    chosen = EmbedderConfig(encoder=encoder, revision=config.revision)
    embedder = make_embedder(chosen)
    embedder.setup(os.cpu_count() or 1)
    try:
        sounds = [
            decode_audio(Path(path).read_bytes(), max_seconds=MAX_SECONDS) for path in config.audio
        ]
    except OSError as error:
        raise ConfigError(f"--audio {error.filename}: {error.strerror}") from error
    except BadSample as bad:
        raise ConfigError(f"--audio: {bad.reason}") from bad
    rows = embedder.embed(sounds, ["the speaker"] * len(sounds))
    vectors = [row for row in rows if not isinstance(row, Missing)]
    if len(vectors) < len(rows):
        path, bad_row = next(
            pair for pair in zip(config.audio, rows, strict=True) if isinstance(pair[1], Missing)
        )
        raise ConfigError(f"--audio {path}: {bad_row}")
    return np.stack(vectors).mean(axis=0, dtype=np.float64).astype(np.float32), fingerprint(chosen)


def _as_json(result: "SearchResult") -> str:
    return json.dumps(asdict(result), indent=2) + "\n"


def _as_table(result: "SearchResult", description: "Description") -> str:
    lines = [
        f"{'speaker':32s}{'similarity':>11s}"
        + "".join(f"{n:>20s}" for n in description.label_dimensions)
    ]
    for neighbor in result.neighbours[0]:
        cells = []
        for name in description.label_dimensions:
            label = neighbor.labels.get(name)
            cells.append(
                "" if label is None else f"{label.mean:.3f} ± {label.standard_deviation:.3f}"
            )
        lines.append(
            f"{neighbor.id:32s}{neighbor.similarity:11.4f}"
            + "".join(f"{cell:>20s}" for cell in cells)
        )
    lines.append(f"of {description.num_speakers} speakers, generation {result.generation}")
    return "\n".join(lines) + "\n"
