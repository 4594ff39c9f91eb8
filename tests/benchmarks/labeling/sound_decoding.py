"""Decoding, header checks and import of ordinary wav, flac and mp3 files: this tree against an
earlier commit.

`python -m tests.benchmarks.labeling.sound_decoding [--before COMMIT] [--num-files 60]
[--repeats 7]`

The sound of an earlier commit must come out the same to the bit, and cost as much: what looks for
damage in odd files must not be paid for by ordinary ones. Each round is a process of its own,
rounds of both sides alternate, and the least processor time of each is compared, which other
programs of a busy machine disturb least. Prints a table and, as its last line, `RESULT {...}`.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import soundfile

from tests import ROOT
from tests.benchmarks.measuring import print_result
from tests.shards.media.pieces import encode_sound

BEFORE = "80e60db"
MAX_RATIO = 1.05
KINDS = ("mono.wav", "stereo.wav", "mono.flac", "stereo.flac", "mono.mp3")
ROUND = """
import hashlib, json, sys, tempfile, time
from pathlib import Path
from shards.importing.config import ImportConfig
from shards.importing.job import import_table
from shards.media.audio import check_audio_header, decode_audio

folder, result, digest = Path(sys.argv[1]), {}, hashlib.md5()
for kind in sys.argv[2:]:
    files = [path.read_bytes() for path in sorted(folder.glob(f"*.{kind}"))]
    for name, look in (("decode", decode_audio), ("header", check_audio_header)):
        best = []
        for data in files:
            times = []
            for _ in range(3):
                started = time.process_time()
                found = look(data)
                times.append(time.process_time() - started)
            best.append(min(times))
            if name == "decode":
                digest.update(found.tobytes())
        result[f"{name} {kind}"] = sum(best)
with tempfile.TemporaryDirectory() as out:
    config = ImportConfig(table=str(folder / "table.csv"), root=str(folder), out=out, num_workers=1)
    started = time.process_time()
    import_table(config)
    result["import"] = time.process_time() - started
print(json.dumps({"digest": digest.hexdigest(), "seconds": result}))
"""


def make_files(folder: Path, num_files: int) -> None:
    """Files of 3.5 s of noise with a slow loudness, like speech, and a table that names them."""
    generator = np.random.default_rng(0)
    rows = ["key,audio,speaker"]
    for number in range(num_files):
        loudness = 0.1 + 0.1 * np.sin(np.linspace(0, 20, 154_350))
        sound = loudness * generator.normal(0, 0.3, (2, 154_350))
        for kind in KINDS:
            channels, extension = kind.split(".")
            samples = sound.T if channels == "stereo" else sound[0]
            path = folder / f"{number:04d}.{kind}"
            if extension == "mp3":
                path.write_bytes(
                    encode_sound(sound[0], rate_hz=44_100, container="mp3", codec="libmp3lame")
                )
            else:
                soundfile.write(path, samples, 44_100, subtype="PCM_16")
            rows.append(f"{number}-{channels}-{extension},{path.name},s{number % 7}")
    (folder / "table.csv").write_text("\n".join(rows))


def unpack_commit(commit: str, folder: Path) -> None:
    """The package `shards` as it was at `commit`."""
    archive = subprocess.run(
        ["git", "archive", commit, "shards"], cwd=ROOT, capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")


def run_round(tree: Path, files: Path) -> dict[str, dict[str, float]]:
    """Processor seconds of each step, with the code that lies in `tree`."""
    done = subprocess.run(
        [sys.executable, "-c", ROUND, str(files), *KINDS],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, dict[str, float]] = json.loads(done.stdout)
    return result


def main() -> int:
    """Run the benchmark; 1 when the sound has changed or an ordinary file costs too much more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--before", default=BEFORE)
    parser.add_argument("--num-files", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        files, before = Path(name, "files"), Path(name, "before")
        files.mkdir()
        make_files(files, options.num_files)
        unpack_commit(options.before, before)
        rounds = [
            (run_round(before, files), run_round(ROOT, files)) for _ in range(options.repeats)
        ]

    steps = list(rounds[0][0]["seconds"])
    old, new = (
        {step: min(pair[side]["seconds"][step] for pair in rounds) for step in steps}
        for side in (0, 1)
    )
    for name in ("decode", "header"):
        parts = [step for step in steps if step.startswith(name)]
        old[name], new[name] = (sum(side[step] for step in parts) for side in (old, new))
    ratios = {step: new[step] / old[step] for step in old}
    for step, ratio in ratios.items():
        sys.stdout.write(f"{step:20} {old[step]:8.3f} s {new[step]:8.3f} s {ratio:6.2f}\n")

    is_same = len({str(side["digest"]) for pair in rounds for side in pair}) == 1
    worst = max(ratios["decode"], ratios["import"])
    print_result("sound_decoding", {"same_sound": is_same, "ratios": ratios, "worst": worst})
    return 0 if is_same and worst <= MAX_RATIO else 1


if __name__ == "__main__":
    sys.exit(main())
