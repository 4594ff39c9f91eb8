"""Finds who is speaking in real recordings: looks up held-out utterances among enrolled speakers.

`python -m tests.benchmarks.serving.speakers [--data FOLDER] [--steps 400] [--keep FOLDER]`

The service answers. In RAVDESS, each actor is enrolled by one sentence, in all emotions, and asked
for by the other. In LibriSpeech, the ten speakers with ten utterances are enrolled by five and
asked for by the rest, among 251 others of one utterance each. Vectors are spectral statistics, or
those of a small encoder that is trained here from nothing, by masked prediction on LibriSpeech. It
has heard LibriSpeech's sound but not who speaks, and nothing of RAVDESS.
"""

import argparse
import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from cluster.demo.speakers import serving
from cluster.jobs.embed import EmbedConfig
from cluster.serving.client import SpeakerClient
from shards.speakers.from_embeddings import list_tables
from shards.tables.embeddings import read_embeddings, vectors_of
from tests import ROOT
from tests.benchmarks.measuring import emostream, machine, print_result

DEFAULT_DATA = ROOT.parent / "shared" / "data"
ENROLLED, ASKED = "train", "test"
ENCODER = {"hidden_size": 64, "num_layers": 4, "num_heads": 4, "intermediate_size": 256}
MASKING = {"num_labels": 100, "mask_length": 4, "min_samples": 8000}

Row = dict[str, str]


def import_corpus(source: Path, folder: Path, split_of: Callable[[Row, int], str]) -> str:
    """Import a corpus, and return its shards.

    `split_of` is given each row and its place among the rows of its speaker.
    """
    with (source / "clips.csv").open(newline="") as stream:
        rows = sorted(csv.DictReader(stream), key=lambda row: row["clip"])

    folder.mkdir()
    seen: Counter[str] = Counter()
    with (folder / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "split"])
        writer.writeheader()
        for row in rows:
            writer.writerow(row | {"split": split_of(row, seen[row["speaker"]])})
            seen[row["speaker"]] += 1

    emostream(
        "import", str(folder / "table.csv"), "--root", str(source), "--out", str(folder / "shards")
    )
    return f"{folder}/shards/*.tar"


def train_encoder(librispeech: Path, folder: Path, steps: int) -> str:
    """Train a small encoder from nothing; it validates on every tenth speaker's utterances."""
    speakers: dict[str, int] = {}

    def split_of(row: Row, _: int) -> str:
        return (
            "validation"
            if speakers.setdefault(row["speaker"], len(speakers)) % 10 == 0
            else "train"
        )

    options = {
        "recipe": "tapt",
        "shards": import_corpus(librispeech, folder / "unlabeled", split_of),
        "out": str(folder / "encoder"),
        "encoder": ENCODER,
        "model": MASKING,
        "data": {"utterances": {"batch_seconds": 100.0}},
        "engine": {"num_steps": steps, "learning_rate": 1e-3},
    }

    (folder / "train.yaml").write_text(yaml.safe_dump(options))
    emostream("train", "--config", str(folder / "train.yaml"))
    return f"{folder}/encoder/best"


def retrieve(shards: str, encoder: str, folder: Path) -> dict[str, float]:
    """Embed, serve the enrolled speakers, and ask for every held-out utterance.

    Returns the shares of top 1 and top 5, and the mean of 1 / rank.
    """
    out = f"{folder}/speakers.parquet"
    emostream("embed", "--shards", shards, "--encoder", encoder, "--out", out, "--split", ENROLLED)

    tables = list_tables(EmbedConfig(shards=shards, encoder=encoder, out=out).folder)
    rows = [read_embeddings(url) for url in tables]
    vectors = np.concatenate([vectors_of(part) for part in rows])
    speakers = [speaker for part in rows for speaker in part["speaker"].to_pylist()]
    asked = [
        json.loads(text)["split"] == ASKED for part in rows for text in part["metadata"].to_pylist()
    ]

    ranks = []
    with serving(out, f"{folder}/index") as server, SpeakerClient(server) as client:
        description = client.describe()
        client.fingerprint, k = description.encoder_fingerprint, description.num_speakers
        answer = client.search(vectors[np.asarray(asked)], k)
        wanted = [speaker for speaker, is_asked in zip(speakers, asked, strict=True) if is_asked]
        for speaker, neighbors in zip(wanted, answer.neighbours, strict=True):
            ranks.append(1 + [neighbor.id for neighbor in neighbors].index(speaker))

    found = np.asarray(ranks)
    shares = {"top_1": (found == 1).mean(), "top_5": (found <= 5).mean(), "mrr": (1 / found).mean()}
    return {name: float(value) for name, value in shares.items()} | {
        "asked": len(found),
        "speakers": k,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument(
        "--steps", type=int, default=400, help="training steps of the small encoder"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="folder to work in and keep; default: a temporary one",
    )
    options = parser.parse_args()

    sources = {name: options.data / name for name in ("ravdess", "librispeech")}
    if not all((source / "clips.csv").exists() for source in sources.values()):
        sys.stdout.write(f"no RAVDESS and LibriSpeech in {options.data}: skipped; see --data\n")
        return

    with tempfile.TemporaryDirectory() as name:
        folder = (options.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _report(_measure(sources, folder, options.steps))


def _measure(sources: Mapping[str, Path], folder: Path, steps: int) -> dict[str, dict[str, float]]:
    shards = {
        "ravdess": import_corpus(
            sources["ravdess"],
            folder / "ravdess",
            lambda row, _: ENROLLED if "Kids" in row["transcript"] else ASKED,
        ),
        "librispeech": import_corpus(
            sources["librispeech"],
            folder / "librispeech",
            lambda _, place: ENROLLED if place < 5 else ASKED,
        ),
    }

    found = {}
    encoders = {
        "spectral": "spectral",
        "small encoder": train_encoder(sources["librispeech"], folder, steps),
    }

    for name, encoder in encoders.items():
        for corpus, pattern in shards.items():
            work = folder / f"{corpus}-{name.replace(' ', '-')}"
            work.mkdir()
            found[f"{corpus}, {name}"] = retrieve(pattern, encoder, work)

    return found


def _report(found: Mapping[str, Mapping[str, float]]) -> None:
    columns: Sequence[str] = ("asked", "speakers", "top_1", "top_5", "mrr")
    sys.stdout.write(
        f"\n{machine()}\n{'':30s}" + "".join(f"{name:>10s}" for name in columns) + "\n"
    )

    for name, row in found.items():
        counts = "".join(f"{row[column]:10.0f}" for column in columns[:2])
        sys.stdout.write(
            f"{name:30s}{counts}" + "".join(f"{row[column]:10.3f}" for column in columns[2:]) + "\n"
        )

    print_result("speakers", dict(found))


if __name__ == "__main__":
    main()
