"""The job for features: every utterance once, shards that changed again, one encoder a folder."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.embedding.config import EmbedderConfig
from actors.features.config import LayerChoice
from actors.features.extractors import make_extractor
from actors.inference.outcomes import Missing
from cluster.cli import main
from cluster.jobs.features import FeaturesConfig, make_features
from shards.config import ConfigError
from shards.media.audio import decode_audio
from shards.samples.sample import Sample
from shards.storage.documents import read_json
from shards.tables.feature_store import open_features
from tests.worlds.small import SmallWorld, make_sample, write_shard


@pytest.fixture
def world(small_world: SmallWorld, tmp_path: Path) -> Path:
    """Two shards of six utterances, and one with a sample without sound."""
    for path in sorted(small_world.shards.glob("*.tar"))[:2]:
        shutil.copy2(path, tmp_path)
    silent = Sample(key="mute", transcript="words", metadata={"speaker": "ann"})
    write_shard(tmp_path / "odd.tar", [make_sample(99), silent])
    return tmp_path


def options(world: Path, address: str, **changes: Any) -> FeaturesConfig:
    values = {
        "shards": f"{world}/*.tar",
        "encoder": "spectral",
        "out": f"{world}/features",
        "num_workers": 1,
        "address": address,
    }
    return FeaturesConfig(**(values | changes))


def test_every_utterance_has_features_or_a_reason(world: Path, ray_address: str) -> None:
    """Frames equal those of the recordings one by one; a second run opens nothing."""
    summary = make_features(options(world, ray_address))
    assert (summary.num_made, summary.job.num_utterances, summary.job.rejected) == (
        3,
        14,
        {"no_audio": 1},
    )

    store = open_features(f"{world}/features", f"{world}/*.tar")
    extractor = make_extractor(EmbedderConfig(encoder="spectral"), LayerChoice(text="last"))
    extractor.setup(1)
    for number in range(12):
        sample, shard = make_sample(number), f"{world}/small-{number // 6:03d}.tar"
        (wanted,) = extractor.extract([decode_audio(sample.audio or b"")])
        assert not isinstance(wanted, Missing)
        np.testing.assert_array_equal(store.read(shard, sample.key), wanted.frames_TLD)

    again = make_features(options(world, "nowhere:1"))
    assert (again.num_made, again.job.num_reused, again.job.rejected) == (0, 3, {"no_audio": 1})
    assert read_json(world / "features" / "features-summary.json")["num_utterances"] == 14


def test_a_changed_shard_is_done_again(world: Path, ray_address: str) -> None:
    """Only that shard is opened, and its former file goes; the bytes of the others stay."""
    make_features(options(world, ray_address))
    before = {path.name: path.read_bytes() for path in (world / "features").glob("small-*")}
    os.utime(world / "odd.tar", (1, 1))
    with pytest.raises(ConfigError, match="has changed since its features were made"):
        open_features(f"{world}/features", f"{world}/*.tar")

    summary = make_features(options(world, ray_address))
    assert (summary.num_made, summary.num_removed, summary.num_other_files) == (1, 1, 0)
    assert before == {path.name: path.read_bytes() for path in (world / "features").glob("small-*")}
    open_features(f"{world}/features", f"{world}/*.tar")


def test_another_encoder_or_layers_need_another_folder(world: Path, ray_address: str) -> None:
    """A folder of other features is refused before any work, and the command says so."""
    make_features(options(world, ray_address))
    with pytest.raises(ConfigError, match=r"other layers.*; give another --out"):
        make_features(options(world, "nowhere:1", layers="all"))

    arguments = ["--shards", f"{world}/*.tar", "--encoder", "spectral", "--layers", "all"]
    assert main(["features", *arguments, "--out", f"{world}/features"]) == 2
