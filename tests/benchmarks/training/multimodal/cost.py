"""What the objectives cost: seconds of the labeling pass, bytes of tables, and training.

Seconds are those of one core for an hour of sound, spent in the panel's own stages, without Ray.
They include openSMILE where it is installed, and an image backbone of EfficientNet-B2's size (with
random weights, on which speed does not depend) on pictures of 224 pixels, one a second and thirty a
second.
"""

import importlib.util
import json
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from actors.labeling.config import PanelConfig
from actors.labeling.panel import Panel
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.reading.utterance import Utterance
from shards.config_values import from_mapping
from shards.storage.files import list_files
from tests.benchmarks.training.multimodal.runs import Bench

NUM_UTTERANCES = 200
NUM_PICTURES = 16
SECONDS_OF_HOUR = 3600
B2_WIDTH = 1408  # EfficientNet-B2's features, in the paper


def measure_cost(bench: Bench, corpus: str, seed: int) -> dict[str, float]:
    """The cost of each objective on a corpus' pool, by what is measured."""
    place = bench.place(corpus)
    started = time.process_time()
    utterances = _read(str(place / "pool" / "*.tar"))
    hours = sum(one.duration_seconds or 0 for one in utterances) / SECONDS_OF_HOUR
    figures = {"seconds an hour: decoding": (time.process_time() - started) / hours}

    for name, objectives in _panels(place).items():
        seconds = _labeling_seconds(objectives, utterances)
        figures[f"seconds an hour: {name}"] = seconds / hours
    figures |= _picture_seconds(bench.folder / "image-backbone")
    figures |= _table_bytes(place)
    figures |= _training(bench, corpus, seed)
    return figures


def _read(pattern: str) -> list[Utterance]:
    found: list[Utterance] = []
    reader = ShardReader(MediaConfig(), Needs(audio=True, vision=True))
    reader.setup()
    for file in list_files(pattern):
        for item in reader.read(file.url):
            if not isinstance(item, ShardOpened):
                found += item
            if len(found) >= NUM_UTTERANCES:
                return found[:NUM_UTTERANCES]
    return found


def _panels(place: Path) -> dict[str, dict[str, object]]:
    """The objectives to measure, each alone."""
    width = len(_tables(place)[0].column("face_embedding")[0])
    panels: dict[str, dict[str, object]] = {
        "O1, builtin": {"acoustics": {"features": "builtin"}},
        "O3, features": {"face_features": width},
    }
    if importlib.util.find_spec("opensmile") is not None:
        for features in ("egemaps", "egemaps-32-16"):
            panels[f"O1, {features}"] = {"acoustics": {"features": features}}
    if (place / "sentiment").exists():
        panels["O2, small teacher"] = {"sentiment": {"checkpoint": str(place / "sentiment")}}
    return panels


def _labeling_seconds(objectives: dict[str, object], utterances: list[Utterance]) -> float:
    config = from_mapping(PanelConfig, {"objectives": objectives, "precision": "float32"})
    panel = Panel(config)
    panel.setup(num_threads=1)
    panel.label(utterances[:2])  # what a first call does once is no cost of an hour

    started = time.process_time()
    panel.label(utterances)
    return time.process_time() - started


def _picture_seconds(folder: Path) -> dict[str, float]:
    """Seconds of an image backbone for the pictures of an hour."""
    import torch
    from transformers import EfficientNetConfig, EfficientNetModel

    torch.set_num_threads(1)
    torch.manual_seed(0)
    # The numbers of EfficientNet-B2; those of the defaults are B7's.
    model = EfficientNetModel(
        EfficientNetConfig(
            width_coefficient=1.1, depth_coefficient=1.2, hidden_dim=B2_WIDTH, image_size=224
        )
    ).eval()
    pictures = torch.randn(NUM_PICTURES, 3, 224, 224)
    with torch.inference_mode():
        model(pixel_values=pictures[:2])
        started = time.process_time()
        model(pixel_values=pictures)
    seconds = (time.process_time() - started) / NUM_PICTURES
    return {
        f"seconds an hour: O3, EfficientNet-B2, {rate} pictures a second": (
            seconds * rate * SECONDS_OF_HOUR
        )
        for rate in (1, 30)
    }


def _tables(place: Path) -> list[pa.Table]:
    return [pq.read_table(path) for path in sorted((place / "targets").glob("*.parquet"))]


def _table_bytes(place: Path) -> dict[str, float]:
    """KiB of the prediction tables for an hour of sound, with O3 of two widths and without."""
    tables = _tables(place)
    hours = (
        sum(sum(table.column("duration_seconds").to_pylist()) for table in tables) / SECONDS_OF_HOUR
    )
    without = [table.drop_columns(["face_embedding"]) for table in tables]
    wide = [_with_embedding(table) for table in without]

    width = len(tables[0].column("face_embedding")[0])
    sizes = {"without O3": without, f"O3 of {width}": tables, f"O3 of {B2_WIDTH}": wide}
    return {
        f"KiB of tables an hour: {name}": sum(map(_written_bytes, several)) / 1024 / hours
        for name, several in sizes.items()
    }


def _with_embedding(table: pa.Table) -> pa.Table:
    """The table with noise in place of an embedding: like one, it cannot be compressed much."""
    values = np.random.default_rng(0).standard_normal(len(table) * B2_WIDTH).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values), B2_WIDTH)
    return table.append_column("face_embedding", column)


def _written_bytes(table: pa.Table) -> int:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return int(sink.getvalue().size)


def _training(bench: Bench, corpus: str, seed: int) -> dict[str, float]:
    """Hours of sound that stage 1 trains on in an hour, with all objectives that there are."""
    is_world = (bench.place(corpus) / "sentiment").exists()
    name, fold = ("O1+.5*O2+O3", None) if is_world else ("O1+O3", 0)
    best = bench.adapt(corpus, name, seed, fold)
    lines = (best.parent / "metrics.jsonl").read_text().splitlines()
    rates = [
        row["utterances_per_second"]
        for line in lines
        if "utterances_per_second" in (row := json.loads(line))
    ]

    durations = [
        seconds
        for table in _tables(bench.place(corpus))
        for seconds in table.column("duration_seconds").to_pylist()
    ]
    return {
        "audio-hours of training an hour": statistics.median(rates) * statistics.mean(durations)
    }
