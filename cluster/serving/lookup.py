"""`emostream lookup`: who in a speaker index sounds most like a given speaker.

The speaker is given as recordings, as a vector, or by the name of a speaker of the index.
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
# Seconds of each recording that are decoded at most.
MAX_SECONDS = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupConfig:
    """Options of `emostream lookup`."""

    server: str = option(help="HOST:PORT of a server, as `emostream serve` prints it.")
    audio: tuple[str, ...] = option(
        default=(), is_paths=True, help="Files with recordings of one speaker."
    )
    vector: str | None = option(
        default=None, help="File in .npy format with the vector [D] of a speaker."
    )
    speaker: str | None = option(
        default=None, help="Name of a speaker of the index. It is not listed as its own neighbor."
    )
    k: int = option(default=5, help="Number of speakers to find.")
    encoder: str | None = option(
        default=None,
        help="Encoder for --audio, as hub name or folder. It must be the very encoder that the "
        "index was made with, and may be left out if that is spectral.",
    )
    revision: str | None = option(
        default=None, help="Full commit hash of an encoder from the Hugging Face hub."
    )
    fingerprint: str | None = option(
        default=None,
        help="Fingerprint of the encoder that made --vector. Without it, the encoder is taken to "
        "be the index's.",
    )
    tls_ca: str | None = option(
        default=None,
        help="PEM file of the authority of the server's certificate. With it, TLS is used.",
    )
    tls_cert: str | None = option(
        default=None, help="PEM file with the certificate of this client, for mutual TLS."
    )
    tls_key: str | None = option(default=None, help="PEM file with the private key of --tls-cert.")
    timeout_seconds: float = option(
        default=10.0, help="Seconds after which a call to the server is given up."
    )
    json: bool = option(default=False, help="Print JSON in place of a table.")

    def __post_init__(self) -> None:
        asked = {"--audio": self.audio or None, "--vector": self.vector, "--speaker": self.speaker}
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            raise ConfigError(
                f"got {' and '.join(given) or 'none'}, expected one of {', '.join(asked)}; give "
                "exactly one"
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
    """The end of an error message: what may help when the server cannot be reached."""
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
        raise ConfigError(
            f"--vector {path}: cannot be read as .npy: {error}; give a file that numpy.save wrote"
        ) from error
    if vector.ndim != 1 or not np.issubdtype(vector.dtype, np.floating):
        raise ConfigError(
            f"--vector {path}: got {vector.dtype} {vector.shape}, expected one vector of floats, "
            "such as float32 (D,)"
        )

    return np.asarray(vector, dtype=np.float32)


def embed_recordings(
    config: LookupConfig, description: "Description"
) -> tuple[NDArray[np.float32], str]:
    """The mean vector of the recordings by the index's encoder, and the encoder's fingerprint.

    Raises ConfigError when the encoder is not known, or a recording cannot be used.
    """
    # These modules bring torch and FFmpeg, which a look-up by --vector or --speaker does not need.
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
                f"({description.encoder_fingerprint}); give that encoder's folder or hub name"
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
        raise ConfigError(
            f"--audio {error.filename}: {error.strerror}; give files that can be read"
        ) from error
    except BadSample as bad:
        raise ConfigError(f"--audio: {bad.reason}; give recordings that can be decoded") from bad

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
