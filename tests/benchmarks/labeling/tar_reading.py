"""Compares reading every sample of a tar shard with an undecoded `webdataset.WebDataset`.

This project reads by index and ranges.

`python -m tests.benchmarks.labeling.tar_reading [--num-samples 2000] [--sample-bytes 40000]
[--repeats 5]`

Both sides turn the same file, in the page cache, into one mapping of extension to bytes for every
sample, and each pass opens the file anew. Passes alternate, so that a busy machine slows both, and
medians are compared. The bytes that a pass must deliver are counted outside the clock. The last
line of the output is `RESULT {...}`.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import webdataset

from shards.storage.files import open_ranged
from shards.tar.reader import TarWriter, index_shard, read_members
from tests.benchmarks.measuring import print_result

TARGET_RATIO = 3.0


def write_shard(path: Path, num_samples: int, sample_bytes: int) -> None:
    """Write a shard of samples of flac, json and txt, with `sample_bytes` of payload each."""
    random_bytes = random.Random(0).randbytes

    with path.open("wb") as stream, TarWriter(stream) as writer:
        for number in range(num_samples):
            metadata = json.dumps(
                {"speaker": f"speaker{number % 50:03d}", "language": "en"}
            ).encode()
            transcript = b"it is what it is, and then some"

            audio = random_bytes(sample_bytes - len(metadata) - len(transcript))
            writer.add(
                f"utterance{number:06d}", {"flac": audio, "json": metadata, "txt": transcript}
            )


def read_with_index(path: Path) -> Iterator[Mapping[str, bytes]]:
    """Yield every sample, read by this project's reader."""
    with open_ranged(str(path)) as reader:
        for entry in index_shard(reader).entries:
            yield read_members(reader, entry)


def read_with_webdataset(path: Path) -> Iterator[Mapping[str, bytes]]:
    """Yield every sample, read by webdataset's reader."""
    yield from webdataset.WebDataset(str(path), shardshuffle=False)


def seconds_for(read: Callable[[Path], Iterator[Mapping[str, bytes]]], path: Path) -> float:
    """Measure the wall-clock seconds of one pass over the shard."""
    start = time.perf_counter()
    for _ in read(path):
        pass
    return time.perf_counter() - start


def payload_bytes(read: Callable[[Path], Iterator[Mapping[str, bytes]]], path: Path) -> int:
    """Count the bytes of audio, metadata and text that one pass delivers."""
    return sum(len(sample[field]) for sample in read(path) for field in ("flac", "json", "txt"))


def main() -> None:
    """Make a shard, read it both ways, and print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-samples", type=int, default=2000, help="samples in the shard")
    parser.add_argument(
        "--sample-bytes", type=int, default=40_000, help="payload bytes of a sample"
    )
    parser.add_argument(
        "--repeats", type=int, default=5, help="passes of each reader; medians are compared"
    )
    arguments = parser.parse_args()

    readers = {"shards.tar.reader": read_with_index, "webdataset": read_with_webdataset}

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard.tar"
        write_shard(path, arguments.num_samples, arguments.sample_bytes)
        delivered = {name: payload_bytes(read, path) for name, read in readers.items()}

        seconds: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(arguments.repeats):
            for name, read in readers.items():
                seconds[name].append(seconds_for(read, path))

    if len(set(delivered.values())) != 1:
        raise SystemExit(
            f"the readers delivered different numbers of bytes: {delivered}; the comparison is void"
        )

    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["webdataset"] / medians["shards.tar.reader"]

    print(
        f"{arguments.num_samples} samples of {arguments.sample_bytes} bytes, medians of "
        f"{arguments.repeats}"
    )
    for name, median in medians.items():
        rate = arguments.num_samples / median
        print(
            f"  {name:<12} {median / arguments.num_samples * 1e6:7.1f} us a sample {rate:10.0f} "
            "samples/s"
        )
    print(f"  ratio {ratio:.2f} (target {TARGET_RATIO:.0f})")

    figures: dict[str, object] = {
        "num_samples": arguments.num_samples,
        "sample_bytes": arguments.sample_bytes,
        "samples_per_second": {
            name: arguments.num_samples / median for name, median in medians.items()
        },
        "ratio": ratio,
        "target_ratio": TARGET_RATIO,
    }
    print_result("tar_reading", figures)


if __name__ == "__main__":
    main()
