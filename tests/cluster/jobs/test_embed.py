"""The embedding job: exact in steps, one encoder a folder, and the same calibration when served."""

import dataclasses
import json
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from actors.embedding.config import EmbedderConfig
from actors.embedding.embedders import make_embedder
from actors.inference.outcomes import Missing
from actors.speaker_index.search.config import IndexConfig
from actors.speaker_index.storage.store import open_store
from cluster.cli import main
from cluster.jobs.embed import EmbedConfig, embed
from cluster.serving.client import SpeakerClient
from shards.config import ConfigError
from shards.emotions import EMOTIONS
from shards.media.audio import decode_audio
from shards.speakers.files import read_speakers
from shards.speakers.table import SpeakerTable
from shards.storage.parquet import METADATA_KEY
from tests.actors.speaker_index.running_server import running_server
from tests.worlds.small import SmallWorld, make_sample, write_shard
from tests.worlds.training import make_utterance, small_values, write_training_world

MASKING = {
    "num_labels": 4,
    "mask_length": 2,
    "mask_probability": 0.6,
    "min_samples": 1600,
    "projection_size": 8,
}


@pytest.fixture(scope="module")
def made(
    small_world: SmallWorld, ray_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Embed three of the shards: 18 utterances of 5 speakers, with statistics of emotions."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "shards").mkdir()
    for path in sorted(small_world.shards.glob("*.tar"))[:3]:
        shutil.copy2(path, folder / "shards")
    embed(options(folder, ray_address))
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Iterator[Path]:
    """Lend the folder of `made` to a test that changes it, and put it back at the end.

    It keeps its path, because tables remember where their shards lie.
    """
    shutil.copytree(made, tmp_path / "kept")
    yield made
    shutil.rmtree(made)
    shutil.copytree(tmp_path / "kept", made)


def options(world: Path, address: str, name: str = "speakers", **changes: Any) -> EmbedConfig:
    values = {
        "shards": f"{world}/shards/*.tar",
        "encoder": "spectral",
        "labels": ("emotion",),
        "num_workers": 1,
    }
    return EmbedConfig(
        **(values | {"out": f"{world}/{name}.parquet", "address": address} | changes)
    )  # type: ignore[arg-type]


def table_of(path: Path) -> SpeakerTable:
    return read_speakers(str(path))[0]


def test_a_table_made_in_steps_is_the_one_made_at_once(world: Path, ray_address: str) -> None:
    """New shards update the table to the very bytes that all shards give at once.

    The old shards are not opened again.
    """
    wanted = (world / "speakers.parquet").read_bytes()

    new, first = (
        world / "shards" / "small-000.tar",
        next((world / "speakers-utterances").glob("small-000-*.parquet")),
    )
    first.unlink()
    hidden = shutil.move(new, world)

    before = embed(options(world, ray_address))
    assert (before.num_embedded, before.job.num_reused) == (0, 2)
    assert (world / "speakers.parquet").read_bytes() != wanted

    shutil.move(hidden, new)
    after = embed(options(world, ray_address))
    assert (after.num_embedded, after.job.num_reused) == (1, 2)
    assert (after.job.num_utterances, after.job.num_rejected, after.job.exit_status) == (18, 0, 0)
    assert (world / "speakers.parquet").read_bytes() == wanted


def test_vectors_are_means_over_a_speakers_utterances(made: Path) -> None:
    """Vectors and label statistics equal those computed from the recordings one by one."""
    table = table_of(made / "speakers.parquet")
    embedder = make_embedder(EmbedderConfig(encoder="spectral"))
    embedder.setup(1)

    for place, speaker in enumerate(table.speakers):
        mine = [make_sample(number) for number in range(18) if f"speaker-{number % 5}" == speaker]
        sounds = [decode_audio(sample.audio or b"") for sample in mine]
        rows = [
            row
            for row in embedder.embed(sounds, [speaker] * len(mine))
            if not isinstance(row, Missing)
        ]
        np.testing.assert_allclose(
            table.vectors[place], np.mean(rows, axis=0), rtol=1e-5, atol=1e-6
        )

        emotions = [str((sample.metadata or {})["emotion"]) for sample in mine]
        shares = [emotions.count(name) / len(mine) for name in EMOTIONS]
        assert table.num_utterances[place] == len(mine)
        assert table.label_mean[place] == pytest.approx(shares)


def test_other_labels_need_no_encoder(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with other labels opens neither a shard nor a cluster."""

    def refuse(*_: object) -> None:
        raise AssertionError("a cluster was asked for")

    monkeypatch.setattr("cluster.nodes.session.ray_session", refuse)
    again = embed(options(world, "nowhere:1", labels=(), metadata=("emotion",)))
    assert again.num_embedded == 0
    assert table_of(world / "speakers.parquet").dimensions == ()


@pytest.mark.parametrize(
    "mistyped", [{"labels": ("emotoin",)}, {"labels": (), "metadata": ("emotoin",)}]
)
def test_fields_that_nobody_has_are_refused(world: Path, mistyped: dict[str, Any]) -> None:
    """A mistyped field is refused, and the good table stays as it is."""
    before = (world / "speakers.parquet").read_bytes()
    with pytest.raises(
        ConfigError, match=r"--(labels|metadata) emotoin: no utterance has it in its json, where"
    ):
        embed(options(world, "nowhere:1", **mistyped))
    assert (world / "speakers.parquet").read_bytes() == before


def test_vectors_of_two_encoders_are_not_mixed(world: Path) -> None:
    """A folder with vectors of another encoder is refused before any work."""
    for path in (world / "speakers-utterances").glob("*.parquet"):
        table = pq.read_table(path)
        footer = json.loads(table.schema.metadata[METADATA_KEY])
        footer["fingerprint"] = "encoder:another"
        pq.write_table(table.replace_schema_metadata({METADATA_KEY: json.dumps(footer)}), path)
    with pytest.raises(ConfigError, match="holds vectors of another encoder"):
        embed(options(world, "nowhere:1"))


def test_a_relative_table_is_that_of_the_drivers_folder(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative --out names the same table as an absolute one."""
    before = {path.name: path.read_bytes() for path in (world / "speakers-utterances").iterdir()}
    monkeypatch.chdir(world)
    summary = embed(options(world, "nowhere:1", out="speakers.parquet"))
    assert (summary.num_embedded, summary.job.num_reused, summary.num_tables_removed) == (0, 3, 0)
    assert {
        path.name: path.read_bytes() for path in (world / "speakers-utterances").iterdir()
    } == before


def test_a_corpus_that_has_moved_is_not_counted_twice(world: Path) -> None:
    """Tables from the shards' former place go, and those of copies are refused.

    Tables of other utterances count along.
    """
    path = next((world / "speakers-utterances").glob("small-000-*.parquet"))
    wanted = table_of(world / "speakers.parquet").num_utterances.sum()

    table = pq.read_table(path)
    footer = json.loads(table.schema.metadata[METADATA_KEY]) | {
        "shard_url": str(world / "packed-before.tar")
    }
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(footer)})

    other = path.with_name("packed-before-0123456789ab.parquet")
    pq.write_table(table, other)
    (world / "packed-before.tar").touch()

    with pytest.raises(
        ConfigError, match=r"packed-before-0123456789ab.*holds 6 utterances that --shards has too"
    ):
        embed(options(world, "nowhere:1"))
    (world / "packed-before.tar").unlink()
    assert embed(options(world, "nowhere:1")).num_tables_removed == 1
    assert not other.exists()
    assert table_of(world / "speakers.parquet").num_utterances.sum() == wanted

    keys = [f"other-{key}" for key in table["key"].to_pylist()]
    pq.write_table(table.set_column(0, "key", [keys]), other)
    summary = embed(options(world, "nowhere:1"))
    assert (summary.num_embedded, summary.num_tables_removed, summary.num_other_tables) == (0, 0, 1)
    assert table_of(world / "speakers.parquet").num_utterances.sum() == wanted + 6


def test_a_changed_shard_and_what_cannot_be_embedded(
    world: Path, ray_address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A changed shard replaces its vectors.

    A shard cut off, a missing speaker and too short a sound have reasons, and give status 3.
    """
    nameless, short = make_sample(600), make_sample(601, seconds=0.05)
    write_shard(world / "shards/small-000.tar", [make_sample(500)])
    write_shard(world / "shards/odd.tar", [dataclasses.replace(nameless, metadata={}), short])
    whole = (world / "shards/small-001.tar").read_bytes()
    (world / "shards/small-001.tar").write_bytes(whole[: len(whole) // 2])

    command = ["embed", "--shards", f"{world}/shards/*.tar", "--encoder", "spectral", "--out"]
    assert (
        main(
            [*command, f"{world}/speakers.parquet", "--address", ray_address, "--num-workers", "1"]
        )
        == 3
    )

    printed = capsys.readouterr().out
    said = [
        "1 x no_speaker",
        "1 x audio_too_short",
        "damaged shard small-001.tar",
        "removed: 2 tables",
        "3 embedded",
    ]
    assert [words for words in said if words not in printed] == []

    with tarfile.open(world / "shards/small-002.tar") as shard:
        whole_keys = {member.name.split(".")[0] for member in shard}

    read = table_of(world / "speakers.parquet").num_utterances.sum() - 1 - len(whole_keys)
    assert 0 < read < 6


def test_unusable_options_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unusable options are refused in one line, before any work."""
    command = ["embed", "--shards", f"{made}/shards/*.tar", "--encoder", "spectral"]

    for more, said in (
        (["--out", f"{tmp_path}/speakers"], "expected a file NAME.parquet"),
        (
            ["--out", f"{tmp_path}/s.parquet", "--labels", "emotion,arousal"],
            "expected emotion alone",
        ),
        (["--out", f"{tmp_path}/s.parquet", "--encoder", f"{tmp_path}/nowhere"], "nowhere"),
    ):
        assert main([*command, *more]) == 2
        assert said in capsys.readouterr().err


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Training shards with a number to recognize."""
    torch.set_num_threads(1)
    return write_training_world(tmp_path_factory.mktemp("packed"))


def train(packed: str, out: Path, recipe: str, **changes: Mapping[str, Any]) -> str:
    """Train for a moment, and return the exported model."""
    values = small_values(packed, out, recipe, num_steps=4, validate_every=4)
    for group, options_of_group in changes.items():
        values[group] = values.get(group, {}) | options_of_group
    out.mkdir(parents=True)
    (out / "options.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", "--config", str(out / "options.yaml")]) == 0
    return f"{out}/best"


def sounds_of(split: str, speaker: int) -> Sequence[np.ndarray]:  # type: ignore[type-arg]
    samples = [make_utterance(split, speaker, number) for number in range(6)]
    return [decode_audio(sample.audio or b"") for sample in samples]


def test_calibration_through_the_service_is_that_of_evaluate(
    packed: str, ray_address: str, tmp_path: Path
) -> None:
    """Calibration over a connection gives the numbers of `evaluate --pldc`."""
    values = {"target": {"kind": "values", "values": ["arousal"]}}
    best = train(packed, tmp_path / "run", "finetune", data=values)

    scores = {}
    for name, more in (("plain", []), ("pldc", ["--pldc", "both", "--neighbors", "3"])):
        out = tmp_path / name
        assert (
            main(["evaluate", "--checkpoint", best, "--shards", packed, "--out", str(out), *more])
            == 0
        )
        rows = pq.read_table(out / "predictions.parquet").to_pylist()
        scores[name] = {row["key"]: row["score_arousal"] for row in rows}

    parts = {}
    for split in ("train", "test"):
        run = {"shards": packed, "encoder": best, "labels": ("arousal",), "split": split}
        found = embed(options(tmp_path, ray_address, **run))
        assert (found.job.num_utterances, found.num_embedded) == (108, 3 if split == "train" else 0)
        parts[split] = table_of(
            shutil.copy2(tmp_path / "speakers.parquet", tmp_path / f"{split}.parquet")
        )
    assert parts["train"].speakers == [f"train-{number}" for number in range(6)]

    index = open_store(str(tmp_path / "data"), str(tmp_path / "train.parquet"), IndexConfig())
    fingerprint = parts["test"].fingerprint

    with (
        running_server(tmp_path / "server", index=index) as server,
        SpeakerClient(server.target, fingerprint=fingerprint) as client,
    ):
        for speaker, vector in zip(parts["test"].speakers, parts["test"].vectors, strict=True):
            keys = [key for key in scores["plain"] if key.startswith(speaker)]
            asked = {"arousal": [scores["plain"][key] for key in keys]}
            answer = client.calibrate(asked, vector=vector, k=3, mode="both")
            wanted = [scores["pldc"][key] for key in keys]
            np.testing.assert_allclose(answer.predictions["arousal"], wanted, rtol=1e-5, atol=1e-5)
            assert not np.allclose(wanted, asked["arousal"], atol=1e-3)
            assert all(neighbor.id.startswith("train-") for neighbor in answer.neighbours)


@pytest.mark.slow
def test_every_trained_encoder_embeds(packed: str, ray_address: str, tmp_path: Path) -> None:
    """The encoders of SetPeER and PAPT give the vectors of the embedder itself."""
    plain = train(packed, tmp_path / "tapt", "tapt", model=MASKING)
    pretrained = {"encoder": {"checkpoint": plain}}
    exports = {
        "setpeer": train(packed, tmp_path / "setpeer", "setpeer"),
        "papt": train(packed, tmp_path / "papt", "papt", **pretrained, model=MASKING),
    }

    for name, export in exports.items():
        embed(
            options(
                tmp_path, ray_address, name, shards=packed, encoder=export, split="test", labels=()
            )
        )
        table = table_of(tmp_path / f"{name}.parquet")

        embedder = make_embedder(EmbedderConfig(encoder=export))
        embedder.setup(1)
        for place, speaker in enumerate(table.speakers):
            rows = embedder.embed(sounds_of("test", int(speaker[-1])), [speaker] * 6)
            found = np.asarray([row for row in rows if not isinstance(row, Missing)])
            np.testing.assert_allclose(
                table.vectors[place], found.mean(axis=0), rtol=1e-4, atol=1e-5
            )

        assert len({vector.tobytes() for vector in table.vectors}) == 6
