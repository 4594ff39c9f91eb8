"""Corpora of the two-stage benchmark: synthetic worlds by split, and RAVDESS with made ratings.

`fitted-0` is the world `fitted` of two_stage_worlds.py with seed 0. Its test speakers are the first
ones of the world, so that what is known of these speakers before any training (`judge`) is known of
the utterances that models are tested on.

`ravdess` holds real voices and real action units, one frame a clip: its mean. Nobody voted there by
stimulus, so the ratings are simulated: the synthetic raters are shown the acted emotion in voice
and face. All that differs between the stimuli is then made up, and the figures test the pipeline,
not the claim. The speakers' names say so too.
"""

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.emotions import EMOTIONS, canonical_emotion
from shards.samples.sample import Sample, encode_sample
from shards.storage.documents import read_json, write_json
from shards.storage.files import atomic_write
from shards.synthetic.config import WorldConfig
from shards.synthetic.corpus import World, iterate_samples
from shards.synthetic.raters import RaterConfig, draw_noise, draw_votes, vote_probabilities
from shards.tar.writer import TarWriter
from tests.benchmarks.training.two_stage_worlds import Judged, judge, world_config

RAVDESS = "ravdess"
SIMULATED = "simulated ratings"
_STRONG = 1.3  # of an utterance that RAVDESS calls strong; the others have 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Everything that is large or small: speakers, the models, and how long they are trained.

    With `folds` 0, a model is tested on the split test; otherwise one is trained for each of that
    many folds of speakers, and they are measured together.
    """

    train_speakers: int
    validation_speakers: int
    test_speakers: int
    folds: int
    width: int
    layers: int
    encoder_width: int
    encoder_layers: int
    steps: int
    utterances: int


def require_same_sizes(folder: Path, sizes: Sizes) -> None:
    """Raise ConfigError when a kept folder was made with other sizes: nothing would compare."""
    path, mine = folder / "sizes.json", asdict(sizes)
    if not path.exists():
        write_json(path, mine)
        return

    found = read_json(path)
    if found != mine:
        changed = [name for name, value in mine.items() if found.get(name) != value]
        raise ConfigError(
            f"--keep {folder}: was made with other sizes ({', '.join(changed)}); give those of its "
            "sizes.json, or another folder"
        )


def write_corpora(folder: Path, names: Iterable[str], sizes: Sizes, ravdess: Path) -> None:
    """Write those of the corpora that are not there yet."""
    for name in sorted(set(names)):
        place = folder / "corpora" / name
        if (place / "_complete").exists():
            continue

        place.mkdir(parents=True, exist_ok=True)
        if name == RAVDESS:
            _write_shard(place / "clips-000000.tar", _rated_clips(ravdess))
        else:
            _write_world(name, sizes, place)
        (place / "_complete").touch()


def corpus_config(name: str) -> WorldConfig:
    """The world of a synthetic corpus, such as `fitted-0`."""
    kind, _, number = name.rpartition("-")
    return world_config(kind, int(number))


def known_of(name: str, sizes: Sizes) -> Judged:
    """What a model that knows what is shown says of the test speakers' utterances."""
    return judge(World(corpus_config(name)), sizes.test_speakers)


def _write_world(name: str, sizes: Sizes, folder: Path) -> None:
    world, first = World(corpus_config(name)), 0
    for split in ("test", "validation", "train"):
        number = getattr(sizes, f"{split}_speakers")
        _write_shard(
            folder / f"{split}-000000.tar",
            (
                replace(sample, metadata={**sample.metadata, "split": split})
                for sample in iterate_samples(world, range(first, first + number))
            ),
        )
        first += number


def _write_shard(path: Path, samples: Iterable[Sample]) -> None:
    with atomic_write(str(path)) as stream:
        writer = TarWriter(stream)
        for sample in samples:
            writer.add(sample.key, encode_sample(sample))
        writer.close()


def _rated_clips(source: Path) -> Iterator[Sample]:
    """The clips of RAVDESS with their action units, rated by the synthetic raters."""
    table = pq.read_table(source / "face_clips.parquet")
    faces = dict(
        zip(
            table["clip"].to_pylist(),
            np.asarray(table["action_units"].to_pylist(), dtype=np.float32),
            strict=True,
        )
    )
    rng = np.random.default_rng(0)

    with (source / "clips.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            audio = source / row["audio"]
            yield Sample(
                key=row["clip"],
                audio=audio.read_bytes(),
                audio_format=audio.suffix[1:],
                face_features=faces[row["clip"]][None],
                metadata=_metadata(row, rng),
            )


def _metadata(row: Mapping[str, str], rng: np.random.Generator) -> dict[str, Any]:
    # Calm is the corpus' eighth class.
    emotion = canonical_emotion(row["emotion"].replace("calm", "neutral"))
    intensity = _STRONG if row["intensity"] == "strong" else 1.0
    return {
        "speaker": f"{row['speaker']} ({SIMULATED})",
        "emotion": emotion,
        "split": "train",
        "demographics": {"sex": {"M": "male", "F": "female"}[row["sex"]]},
        "ratings": simulated_votes(EMOTIONS.index(str(emotion)), intensity, rng),
        "ratings_are": SIMULATED,
    }


def simulated_votes(
    emotion: int, intensity: float, rng: np.random.Generator
) -> dict[str, dict[str, int]]:
    """Votes by stimulus of the synthetic raters, who are shown `emotion` in voice and face."""
    raters = RaterConfig()
    noise: NDArray[np.float64] = draw_noise(rng)
    shown = dict.fromkeys(("voice", "face", "words"), emotion)
    return draw_votes(
        raters, vote_probabilities(raters, shown, intensity=intensity, noise=noise), rng
    )
