"""The demo's last step: serve a table of the training speakers, and look a stranger up in it.

The stranger is a test speaker, whose predictions are also calibrated. The server runs as a process
of its own, as it would elsewhere, and is stopped at the end; every question goes over the
connection.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.jobs.embed import EmbedConfig, embed
from cluster.serving.client import SearchResult, SpeakerClient
from shards.emotions import EMOTIONS
from shards.speakers.from_embeddings import list_tables, make_speaker_table

NEIGHBORS = 5
STOP_SECONDS = 60.0


def serve_speakers(out: Path, encoder: str) -> Iterator[str]:
    """Embed, serve, look up and calibrate; yield the lines that tell of it.

    `encoder` is an exported recognizer with its evaluation in the folder beside it.
    """
    table = out / "speakers.parquet"
    packed = f"{out}/packed/*.tar"

    yield (
        f"emostream embed --shards '{packed}' --encoder {encoder} --out {table} --labels emotion "
        "--split train"
    )

    config = EmbedConfig(
        shards=packed, encoder=encoder, out=str(table), labels=("emotion",), split="train"
    )
    embed(config)

    speaker, vector = _stranger(config)
    np.save(out / "stranger.npy", vector)
    predictions, truth = _predictions(Path(encoder).parent, speaker)

    yield f"emostream serve --speakers {table} --data {out}/speaker-index --port 0"
    with serving(str(table), f"{out}/speaker-index") as server, SpeakerClient(server) as client:
        client.fingerprint = client.describe().encoder_fingerprint
        yield f"emostream lookup --server {server} --vector {out}/stranger.npy -k {NEIGHBORS}"
        yield f"  most like test speaker {speaker}: {_names(client.search(vector, NEIGHBORS))}"

        calibrated = client.calibrate(
            predictions, vector=vector, k=NEIGHBORS, mode="both"
        ).predictions

        yield f"  PLDC: mean predictions for {speaker}, calibrated by those {NEIGHBORS} speakers"
        yield f"  {'':12s}{'predicted':>11s}{'calibrated':>11s}{'true share':>11s}"
        for name, values in predictions.items():
            shares = (values.mean(), calibrated[name].mean(), truth.count(name) / len(truth))
            yield f"  {name:12s}" + "".join(f"{share:11.3f}" for share in shares)


def _stranger(config: EmbedConfig) -> tuple[str, NDArray[np.float32]]:
    """Return the test speaker with most utterances, and the speaker's vector.

    The vector is made from the utterance vectors that `embed` has kept.
    """
    tables = list_tables(config.folder)
    footer = next(iter(tables.values()))
    identity = {"encoder": footer.encoder, "fingerprint": footer.fingerprint}
    table = make_speaker_table(list(tables), identity, labels=(), metadata=(), split="test")
    place = int(table.num_utterances.argmax())
    return table.speakers[place], table.vectors[place]


def _predictions(run: Path, speaker: str) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Return the recognizer's scores for a speaker's utterances, and the true emotions."""
    table = pq.read_table(
        run / "evaluation" / "predictions.parquet", filters=[("speaker", "==", speaker)]
    )
    names = [name for name in EMOTIONS if f"score_{name}" in table.column_names]
    return {name: table[f"score_{name}"].to_numpy().astype(np.float32) for name in names}, table[
        "emotion"
    ].to_pylist()


@contextmanager
def serving(table: str, data: str) -> Iterator[str]:
    """Run a server process, and yield the address where it listens.

    SIGTERM stops it at the end. Raises RuntimeError when it does not start, or ends with an error.
    """
    command = [
        sys.executable,
        "-m",
        "cluster",
        "serve",
        "--speakers",
        table,
        "--data",
        data,
        "--port",
        "0",
    ]

    process = subprocess.Popen(  # noqa: S603 (our own command)
        [*command, "--log-requests", "errors"], stdout=subprocess.PIPE, text=True
    )

    try:
        assert process.stdout is not None  # noqa: S101 (a pipe was asked for)
        line = process.stdout.readline()
        if not line.startswith("serving"):
            raise RuntimeError(
                f"the server did not start (exit status {process.wait(STOP_SECONDS)})"
            )

        yield f"127.0.0.1:{line.rpartition(':')[2].strip()}"

        process.terminate()
        if status := process.wait(STOP_SECONDS):
            raise RuntimeError(f"the server ended with status {status}")
    finally:
        process.kill()
        process.wait()


def _names(found: SearchResult) -> str:
    return ", ".join(
        f"{neighbor.id} ({neighbor.similarity:.3f})" for neighbor in found.neighbours[0]
    )
