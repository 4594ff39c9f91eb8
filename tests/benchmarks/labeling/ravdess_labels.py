"""Measures label quality on real recordings: RAVDESS through the commands that a user types.

A voice teacher and a face teacher (35 facial action units per clip) learn from actors 1 to 12.
`import`, `label`, `select` and `pack` then treat actors 13 to 24 as an unlabeled corpus. The stored
truth tells how good each teacher, the pair, and the agreement-filtered labels are. Calm counts as
neutral. Three real mp4 files go through the video path: sound track, face crops, labels.

The transcripts of RAVDESS carry no emotion, so voice and face are the teachers. The experiment is
that of the paper, but its modalities are not.
"""

import argparse
import csv
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml

from shards.emotions import EMOTIONS
from tests import ROOT
from tests.benchmarks.measuring import emostream, machine, print_result
from trainers.teachers.inputs import TeacherKind

DEFAULT_DATA = ROOT.parent / "shared" / "data"
TEACHERS: dict[str, TeacherKind] = {"audio": "audio", "vision": "face"}


def write_tables(ravdess: Path, folder: Path) -> dict[str, Path]:
    """Write the clips of the training and the labeled actors as import tables.

    Their action units become .npy files.
    """
    units = pq.read_table(ravdess / "face_clips.parquet").to_pydict()

    (folder / "face").mkdir()
    for clip, values in zip(units["clip"], units["action_units"], strict=True):
        np.save(folder / "face" / f"{clip}.npy", np.asarray([values], dtype=np.float32))
    (folder / "audio").symlink_to(ravdess / "audio")

    with (ravdess / "clips.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))

    tables = {}
    for part, actors in {"train": range(1, 13), "label": range(13, 25)}.items():
        chosen = [row for row in rows if int(row["speaker"].rpartition("_")[2]) in actors]
        tables[part] = folder / f"{part}.csv"
        with tables[part].open("w", newline="") as stream:
            writer = csv.DictWriter(stream, [*rows[0], "face"])
            writer.writeheader()
            for row in chosen:
                emotion = row["emotion"].replace("calm", "neutral")
                writer.writerow(row | {"emotion": emotion, "face": f"face/{row['clip']}.npy"})
    return tables


def train_panel(shards: str, folder: Path, seed: int) -> Path:
    """Train both teachers, and write the panel that names them."""
    from trainers.teachers.inputs import read_training_utterances
    from trainers.teachers.train import TeacherConfig, train_teacher

    utterances = read_training_utterances(shards, tuple(TEACHERS.values()))
    for name, kind in TEACHERS.items():
        report = train_teacher(
            kind,
            utterances,
            replace(TeacherConfig.for_kind(kind), seed=seed),
            folder / f"{name}-teacher",
        )
        sys.stdout.write(
            f"{name} teacher, held-out training actors: accuracy {report.accuracy:.3f}\n"
        )

    panel = folder / "panel.yaml"
    panel.write_text(
        yaml.safe_dump({name: {"checkpoint": str(folder / f"{name}-teacher")} for name in TEACHERS})
    )
    return panel


def label_actors(
    tables: dict[str, Path], ravdess: Path, folder: Path, seed: int
) -> dict[str, object]:
    """Run the commands from import to report, and return the selection's summary."""
    for part, table in tables.items():
        emostream(
            "import", str(table), "--root", str(folder), "--out", str(folder / f"shards-{part}")
        )

    panel = train_panel(f"{folder}/shards-train/*.tar", folder, seed)
    shards, selection = f"{folder}/shards-label/*.tar", str(folder / "selection")
    emostream(
        "label", "--shards", shards, "--out", str(folder / "predictions"), "--panel", str(panel)
    )

    select = [
        "select",
        "--predictions",
        str(folder / "predictions"),
        "--out",
        selection,
        "--teachers",
        "audio,vision",
    ]
    emostream(
        *select, "--classes", ",".join(EMOTIONS), "--min-per-speaker", "5", "--seed", str(seed)
    )

    emostream("pack", "--shards", shards, "--selection", selection, "--out", str(folder / "packed"))
    emostream("report", selection, "--out", str(folder / "report.html"))

    summary: dict[str, object] = json.loads((folder / "selection" / "summary.json").read_text())
    return summary


def label_videos(data: Path, folder: Path) -> list[dict[str, object]]:
    """Import and label the mp4 files, and return their rows.

    The trained voice teacher hears them, and an untrained one sees the faces.
    """
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    torch.manual_seed(0)
    labels = {
        "id2label": dict(enumerate(EMOTIONS)),
        "label2id": {name: i for i, name in enumerate(EMOTIONS)},
    }
    small = {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    }

    ViTForImageClassification(ViTConfig(image_size=96, **small, **labels)).save_pretrained(
        folder / "faces"
    )
    ViTImageProcessor(size={"height": 96, "width": 96}).save_pretrained(folder / "faces")

    table = folder / "videos.csv"
    videos = sorted(path.name for path in (data / "video").glob("*.mp4"))
    table.write_text(
        "key,video,speaker\n"
        + "".join(f"video-{n},{video},someone\n" for n, video in enumerate(videos))
    )

    faces = {
        "detector": str(data / "models" / "face_detection_yunet.onnx"),
        "frames_per_second": 2.0,
    }
    panel = {
        "audio": {"checkpoint": str(folder / "audio-teacher")},
        "vision": {"checkpoint": str(folder / "faces")},
    }
    (folder / "video-panel.yaml").write_text(yaml.safe_dump({**panel, "media": {"faces": faces}}))

    emostream(
        "import", str(table), "--root", str(data / "video"), "--out", str(folder / "video-shards")
    )

    out = folder / "video-predictions"
    command = ["label", "--shards", f"{folder}/video-shards/*.tar", "--out", str(out)]
    emostream(*command, "--panel", str(folder / "video-panel.yaml"))
    columns = ["key", "duration_seconds", "audio", "vision", "error"]
    return [
        row
        for path in sorted(out.glob("*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEFAULT_DATA)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--keep",
        type=Path,
        default=None,
        help="folder to work in and keep; default: a temporary one",
    )
    options = parser.parse_args()

    if not (options.data / "ravdess" / "clips.csv").exists():
        sys.stdout.write(f"no RAVDESS in {options.data}: skipped; see --data\n")
        return

    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        tables = write_tables(options.data / "ravdess", folder)
        summary = label_actors(tables, options.data / "ravdess", folder, options.seed)
        videos = label_videos(options.data, folder)

    print_tables(summary, videos)


def print_tables(summary: dict[str, object], videos: list[dict[str, object]]) -> None:
    """Print teachers, pair and kept set, then the curve over thresholds, then the videos."""
    quality, retention = summary["quality"], summary["retention"]
    sys.stdout.write(f"\n{machine()}\nRAVDESS, actors 13 to 24, 7 classes, speakers unseen\n")

    rows = {**quality["teachers"], "pair, averaged": quality["combined"], "kept": quality["kept"]}  # type: ignore[index]
    for what, scores in rows.items():
        pairs = (("accuracy", scores["accuracy"]), ("macro-F1", scores["macro_f1"]))
        columns = [f"{name} {x['value']:.3f} ({x['low']:.3f}-{x['high']:.3f})" for name, x in pairs]
        sys.stdout.write(f"{what:16s} n {scores['n']:5d}  {'  '.join(columns)}\n")

    sys.stdout.write("threshold   kept  share  accuracy  macro-F1\n")
    for point in retention:  # type: ignore[attr-defined]
        if point["accuracy"] is not None:
            line = f"{point['threshold']:9.3f} {point['kept']:6d} {point['share']:6.2f}"
            sys.stdout.write(
                f"{line} {point['accuracy']['value']:9.3f} {point['macro_f1']['value']:9.3f}\n"
            )

    for video in videos:
        sys.stdout.write(f"{video}\n")

    print_result("ravdess_labels", {"quality": quality, "retention": retention, "videos": videos})


if __name__ == "__main__":
    main()
