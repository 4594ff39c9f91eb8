"""Recognizers of video and of faces answer as `emostream evaluate` has them answer."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from transformers import VideoMAEConfig, WhisperConfig

from actors.predicting.config import PredictConfig
from actors.predicting.needs import require_usable
from actors.predicting.recognizers import PieceRecognizer
from cluster.jobs.predict import predict
from shards.config import ConfigError
from shards.loading.index import read_index
from shards.media.clip_format import ClipFormat
from shards.samples.sample import Sample
from tests.actors.predicting.test_predicting import PREFIX, predicted, scores
from tests.trainers.models.test_recognizer import make as make_recognizer
from tests.worlds.small import write_shard
from tests.worlds.training import make_film, write_training_world, write_video_world
from trainers.evaluation.predicting import load_recognizer
from trainers.evaluation.predicting import predict as predict_index
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.encoders.sequence import SequenceEncoderConfig
from trainers.models.personal.adapted_encoder import ORIGINAL_NAME, save_encoder

VIDEO_ENCODER = VideoMAEConfig(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    image_size=32,
    patch_size=8,
    num_frames=4,
    initializer_range=0.3,
)
VIDEO = {
    "modality": "video",
    "encoder": VIDEO_ENCODER.to_dict(),
    "clip": asdict(ClipFormat(num_frames=4, side_pixels=32, shortest_edge_pixels=32)),
}
FACE = {
    "modality": "face",
    "encoder": SequenceEncoderConfig(
        hidden_size=32, num_hidden_layers=2, front_end="face", feature_size=4
    ).to_dict(),
}


def write_checkpoint(folder: Path, options: Mapping[str, Any], kind: str = "none") -> str:
    """Write an untrained recognizer; with embeddings, it knows one speaker of the split `test`."""
    if kind != "embeddings":
        personal = PREFIX if kind == "prefix" else {}
        make_recognizer(kind, **options, **personal).save_pretrained(folder)
        return str(folder)

    known = {"speakers": ["test-1", "somebody"], "speaker_vector_width": 32}
    model = make_recognizer("none", **options, **known)
    assert model.speakers is not None
    model.speakers.table.weight.data.normal_()
    model.speakers.vectors.normal_()
    model.save_pretrained(folder)
    save_encoder(LayerwiseEncoder(model.encoder.model), folder / ORIGINAL_NAME)
    return str(folder)


@pytest.mark.parametrize(
    ("options", "kind"),
    [(VIDEO, "none"), (VIDEO, "prefix"), (VIDEO, "embeddings"), (FACE, "none"), (FACE, "prefix")],
    ids=["video", "video-prefix", "video-embeddings", "face", "face-prefix"],
)
def test_answers_are_those_of_an_evaluation(
    options: Mapping[str, Any], kind: str, tmp_path: Path
) -> None:
    """Plain, with sets and with embeddings, a shard's answers are those of `evaluate`."""
    torch.set_num_threads(1)
    write = write_video_world if options["modality"] == "video" else write_training_world
    write(tmp_path / "shards")
    shard = f"{tmp_path}/shards/test-000000.tar"
    checkpoint = write_checkpoint(tmp_path / "best", options, kind)

    rows = predicted(checkpoint, shard, tmp_path / "out.parquet", set_size=4, seed=5)
    index = read_index(shard)
    expected = predict_index(load_recognizer(checkpoint), index, set_size=4, seed=5)

    assert [row["key"] for row in rows] == index.keys(np.arange(len(index)))
    np.testing.assert_allclose(scores(rows), expected.scores, atol=1e-5)
    assert np.std(expected.scores, axis=0).min() > 1e-4


def test_films_in_files_and_tables_answer_as_in_shards(tmp_path: Path) -> None:
    """A film is the same film in a folder, in a table and in a shard; what has none is named."""
    films = [make_film("test", 0, number) for number in range(3)]
    write_shard(tmp_path / "films.tar", films)
    (tmp_path / "films").mkdir()
    for film in films:
        assert film.video is not None
        (tmp_path / "films" / f"{film.key}.mp4").write_bytes(film.video)
    (tmp_path / "films" / "x-damaged.mp4").write_bytes(b"no film")
    lines = [f"{film.key},films/{film.key}.mp4," for film in films]
    (tmp_path / "films.csv").write_text("\n".join(["key,video,audio", *lines, "heard,,a.wav", ""]))
    (tmp_path / "a.wav").write_bytes(b"RIFF")

    checkpoint = write_checkpoint(tmp_path / "best", VIDEO)
    expected = scores(predicted(checkpoint, f"{tmp_path}/films.tar", tmp_path / "out.parquet"))
    common = {"checkpoint": checkpoint, "out": str(tmp_path / "out.csv")}
    files = predict(PredictConfig(**common, audio=(str(tmp_path / "films"),)))
    rows = predict(PredictConfig(**common, table=f"{tmp_path}/films.csv", root=str(tmp_path)))

    for found in (files, rows):
        np.testing.assert_allclose([one.scores for one in found[:3]], expected, atol=1e-5)
        assert [one.end_seconds for one in found[:3]] == [pytest.approx(0.8)] * 3
        assert found[3].scores is None
    assert str(files[3].error).startswith("unknown_video_format")
    assert rows[3].error == "no_video: the row names no video"


def test_samples_without_the_modality_are_named(tmp_path: Path) -> None:
    """A film without faces is no input of a recognizer of faces, nor are frames of other widths."""
    other = Sample(key="b", face_features=np.zeros((3, 5), np.float32), metadata={"speaker": "s"})
    write_shard(tmp_path / "mixed.tar", [make_film("test", 0, 0), other])

    face = write_checkpoint(tmp_path / "face", FACE)
    film, width = predicted(face, f"{tmp_path}/mixed.tar", tmp_path / "face.parquet")
    assert film["error"] == "no_face_features: the sample has no face.npy"
    assert width["error"].startswith("other_face_features: the frames have 5 numbers")

    video = write_checkpoint(tmp_path / "video", VIDEO)
    film, width = predicted(video, f"{tmp_path}/mixed.tar", tmp_path / "video.parquet")
    assert film["error"] is None
    assert width["error"] == "no_video: the sample has no video"


@pytest.mark.parametrize(
    ("modality", "options", "match"),
    [
        ("face", {"audio": ("a.wav",)}, "only shards hold face features"),
        ("video", {"audio": ("a.mp4",), "window": 2.0}, "--window cuts sound only"),
        ("video", {"audio": ("a.mp4",), "speakers": "s", "pldc": "mu"}, "--pldc needs a speaker"),
    ],
)
def test_what_only_sound_can_do_is_refused(
    modality: str, options: dict[str, Any], match: str, tmp_path: Path
) -> None:
    """The error says why, and what to do."""
    checkpoint = write_checkpoint(tmp_path / "best", FACE if modality == "face" else VIDEO)
    config = PredictConfig(checkpoint=checkpoint, out="x.csv", **options)
    with pytest.raises(ConfigError, match=match):
        require_usable(config, PieceRecognizer(checkpoint))


def test_sound_that_the_encoder_cannot_hear_is_a_row(tmp_path: Path) -> None:
    """Of Whisper with room for 1 s, 1.5 s is a row with the remedy; its windows have answers."""
    config = WhisperConfig(
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        decoder_layers=1,
        decoder_attention_heads=2,
        max_source_positions=50,
    )
    checkpoint = write_checkpoint(tmp_path / "best", {"encoder": config.to_dict()})
    rng = np.random.default_rng(0)
    for name, seconds in (("long", 1.5), ("short", 0.5)):
        soundfile.write(
            tmp_path / f"{name}.wav", 0.1 * rng.standard_normal(int(16e3 * seconds)), 16_000
        )

    files = (f"{tmp_path}/long.wav", f"{tmp_path}/short.wav")
    common = {"checkpoint": checkpoint, "out": f"{tmp_path}/out.csv", "audio": files}
    long, short = predict(PredictConfig(**common))
    assert str(long.error).startswith("audio_too_long: 1.5 s of sound, and the encoder hears 1 s")
    assert str(long.error).endswith("give --window 1 or less")
    assert short.scores is not None

    windows = predict(PredictConfig(**common, window=1.0))
    assert [one.end_seconds for one in windows] == [1.0, 1.5, 0.5]
    assert all(one.error is None for one in windows)
