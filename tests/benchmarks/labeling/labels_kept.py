"""The share of labels that survive typical edits of a corpus, and what recognizing them costs.

A corpus is imported and labeled. Each edit starts from that state, imports and labels again, and
counts the utterances that no model saw: those in tables that were left alone, and those that took
their results over. `--against CHECKOUT` imports with the release before, too. That release labels a
shard again when its name, size or modification time is another, so its labels are counted from the
shards. The costs are measured in turns: import by import, and reading by reading, with and without
the digest of each sample's content.
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardReader
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.content import SEEN_BY_LABELERS
from shards.storage.files import list_files, open_ranged
from shards.tar.reader import index_shard
from tests import ROOT
from tests.benchmarks.measuring import machine, print_result
from tests.worlds.small import WORDS, write_checkpoints

TARGET_OVERHEAD = 0.05
Row = dict[str, str]


@dataclass(slots=True)
class Corpus:
    """A table of recordings below `folder`, and how it is imported."""

    folder: Path
    rows: list[Row]
    check: str = "header"
    shard_size_mb: int = 1

    @property
    def recordings(self) -> list[Path]:
        """The files of the rows."""
        return [self.folder / "recordings" / row["audio"] for row in self.rows]

    def add_recording(self, number: int) -> Row:
        """Write a recording of 0.5 to 1.5 s; returns its row."""
        generator = np.random.default_rng(number)
        num_samples = int(generator.uniform(0.5, 1.5) * SAMPLE_RATE_HZ)
        noise = generator.normal(0, 0.1, num_samples).clip(-1, 1).astype(np.float32)
        name = f"{number}.flac"
        (self.folder / "recordings" / name).write_bytes(encode_flac(noise))
        return {
            "clip": f"clip-{number}",
            "audio": name,
            "transcript": " ".join(generator.choice(WORDS, size=5)),
            "speaker": f"speaker-{number // 20}",
        }


def touch(corpus: Corpus) -> None:
    """Every recording gets a new modification time."""
    for path in corpus.recordings:
        os.utime(path)


def download_again(corpus: Corpus) -> None:
    """Every recording is written again, with the same bytes."""
    for path in corpus.recordings:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)


def touch_shards(corpus: Corpus) -> None:
    """Every shard gets a new modification time, as after a backup was restored."""
    for path in (corpus.folder / "shards").glob("*.tar"):
        os.utime(path)


def decode(corpus: Corpus) -> None:
    """Another --check."""
    corpus.check = "decode"


def delete_a_row(corpus: Corpus) -> None:
    """Row 2 goes."""
    del corpus.rows[2]


def insert_a_row(corpus: Corpus) -> None:
    """A new recording in the middle."""
    corpus.rows.insert(len(corpus.rows) // 2, corpus.add_recording(10**6))


def correct_a_transcript(corpus: Corpus) -> None:
    """One transcript near the beginning."""
    corpus.rows[5]["transcript"] = "the door is open"


def correct_speakers(corpus: Corpus) -> None:
    """Every speaker gets another name."""
    for row in corpus.rows:
        row["speaker"] += "-b"


def add_a_column(corpus: Corpus) -> None:
    """A column of the json."""
    for number, row in enumerate(corpus.rows):
        row["take"] = str(number % 3)


def cut_larger(corpus: Corpus) -> None:
    """Shards of twice the size."""
    corpus.shard_size_mb = 2


EDITS: dict[str, Callable[[Corpus], None]] = {
    "touch all recordings": touch,
    "download them again": download_again,
    "touch all shards": touch_shards,
    "another --check": decode,
    "delete row 2": delete_a_row,
    "insert a row in the middle": insert_a_row,
    "correct one transcript": correct_a_transcript,
    "correct all speakers": correct_speakers,
    "add a metadata column": add_a_column,
    "another --shard-size-mb": cut_larger,
}


def run(checkout: Path, *arguments: object) -> None:
    """One command of a checkout; raises when it fails."""
    command = [sys.executable, "-m", "cluster", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")


def write_table(corpus: Corpus) -> None:
    """The table as a CSV file."""
    with (corpus.folder / "table.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, corpus.rows[0].keys())
        writer.writeheader()
        writer.writerows(corpus.rows)


def import_corpus(checkout: Path, corpus: Corpus) -> None:
    """Import the corpus as it is now."""
    folder = corpus.folder
    write_table(corpus)
    places = ["--root", folder / "recordings", "--out", folder / "shards"]
    options = ["--check", corpus.check, "--shard-size-mb", corpus.shard_size_mb]
    run(checkout, "import", folder / "table.csv", *places, *options)


def label_corpus(folder: Path) -> None:
    """Label the shards as they are now."""
    places = ["--shards", f"{folder}/shards/*.tar", "--out", folder / "predictions"]
    run(ROOT, "label", *places, "--panel", folder / "panel.yaml", "--num-labelers", 1)


def tables_left_alone(corpus: Corpus, edit: Callable[[Corpus], None]) -> tuple[int, int]:
    """Utterances whose labels survive an edit, and how many there are then."""
    tables = corpus.folder / "predictions"
    before = {path.name for path in tables.glob("*.parquet")}
    edit(corpus)
    import_corpus(ROOT, corpus)
    label_corpus(corpus.folder)

    rows = {path.name: pq.read_metadata(path).num_rows for path in tables.glob("*.parquet")}
    left_alone = sum(number for name, number in rows.items() if name in before)
    summary = json.loads((tables / "label-summary.json").read_text())
    return left_alone + summary["num_carried_over"], summary["num_utterances"]


def shards_left_alone(
    checkout: Path, corpus: Corpus, edit: Callable[[Corpus], None]
) -> tuple[int, int]:
    """The same for a checkout that labels a shard again when a listing shows another shard."""
    pattern = f"{corpus.folder}/shards/*.tar"
    before = set(list_files(pattern))
    edit(corpus)
    import_corpus(checkout, corpus)

    sizes = {}
    for shard in list_files(pattern):
        with open_ranged(shard.url) as reader:
            sizes[shard] = len(index_shard(reader).entries)
    return sum(sizes[shard] for shard in sizes.keys() & before), sum(sizes.values())


def shares(checkout: Path, corpus: Corpus) -> dict[str, float]:
    """The share of labels kept after each edit, each from the same state."""
    folder, state = corpus.folder, corpus.folder.with_name("state")
    shutil.rmtree(state, ignore_errors=True)
    import_corpus(checkout, corpus)
    if checkout == ROOT:
        label_corpus(folder)
    shutil.copytree(folder, state)

    found = {}
    for name, edit in EDITS.items():
        shutil.rmtree(folder)
        shutil.copytree(state, folder)
        edited = Corpus(folder, [dict(row) for row in corpus.rows])
        number, of = (
            tables_left_alone(edited, edit)
            if checkout == ROOT
            else shards_left_alone(checkout, edited, edit)
        )
        found[name] = number / of
        sys.stdout.write(f"  {name}: {number} of {of}\n")
        sys.stdout.flush()

    shutil.rmtree(folder)
    shutil.copytree(state, folder)
    for name in ("shards", "predictions"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return found


def import_seconds(checkout: Path, corpus: Corpus, out: Path) -> float:
    """Wall time of a first import, start of the process included."""
    write_table(corpus)
    table, root = corpus.folder / "table.csv", corpus.folder / "recordings"
    started = time.perf_counter()
    run(checkout, "import", table, "--root", root, "--out", out, "--shard-size-mb", 16)
    seconds = time.perf_counter() - started
    shutil.rmtree(out)
    return seconds


def reading_seconds(shard: str, needs: Needs) -> float:
    """Processor time to read and decode a shard."""
    started = time.process_time()
    for _ in ShardReader(MediaConfig(), needs).read(shard):
        pass
    return time.process_time() - started


def make_corpus(folder: Path, num_rows: int) -> Corpus:
    """Recordings, their table and a small panel of audio and text."""
    (folder / "recordings").mkdir(parents=True)
    corpus = Corpus(folder, [])
    corpus.rows = [corpus.add_recording(number) for number in range(num_rows)]
    panel = write_checkpoints(folder.with_name("checkpoints"))
    del panel["vision"]
    (folder / "panel.yaml").write_text(yaml.safe_dump(panel))
    return corpus


def measure_costs(
    checkouts: dict[str, Path], corpus: Corpus, repeats: int
) -> dict[str, dict[str, float]]:
    """Medians of importing by checkout, and of reading with and without contents, in turns."""
    imports: dict[str, list[float]] = {name: [] for name in checkouts}
    for _ in range(repeats):
        for name, checkout in checkouts.items():
            imports[name].append(import_seconds(checkout, corpus, corpus.folder / "out"))

    out, root = corpus.folder / "out", corpus.folder / "recordings"
    run(ROOT, "import", corpus.folder / "table.csv", "--root", root, "--out", out)
    shard = str(next((corpus.folder / "out").glob("*.tar")))
    needs = {
        "without content": Needs(audio=True, vision=True),
        "with content": Needs(audio=True, vision=True, seen=SEEN_BY_LABELERS),
    }
    reads: dict[str, list[float]] = {name: [] for name in needs}
    for _ in range(2 * repeats + 1):
        for name, need in needs.items():
            reads[name].append(reading_seconds(shard, need))

    return {
        "import": {name: statistics.median(times) for name, times in imports.items()},
        "read": {name: statistics.median(times) for name, times in reads.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--rows", type=int, default=800)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    checkouts = {} if options.against is None else {"before": options.against.resolve()}
    checkouts["now"] = ROOT

    with tempfile.TemporaryDirectory() as name:
        corpus = make_corpus(Path(name) / "corpus", options.rows)
        found = {}
        for which, checkout in checkouts.items():
            sys.stdout.write(f"{which} ({checkout})\n")
            found[which] = shares(checkout, corpus)
        costs = measure_costs(checkouts, corpus, options.repeats)

    sys.stdout.write(f"{machine()}\n{'labels kept after':28s}" + "".join(f"{n:>9s}" for n in found))
    for edit in EDITS:
        sys.stdout.write(f"\n{edit:28s}" + "".join(f"{each[edit]:9.1%}" for each in found.values()))
    for what, seconds in costs.items():
        first = next(iter(seconds.values()))
        for which, median in seconds.items():
            sys.stdout.write(
                f"\n{what} {which:16s} {options.rows / median:8.0f} rows/s "
                f"{median / first - 1:+.1%} (target: at most {TARGET_OVERHEAD:+.0%})"
            )
    sys.stdout.write("\n")
    print_result("labels_kept", {"kept": found, "seconds": costs, "rows": options.rows})


if __name__ == "__main__":
    main()
