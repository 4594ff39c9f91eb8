"""From tar to utterances: decoded once, in order, with reasons, in whatever chunks."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from actors.labeling.config import PanelConfig
from actors.labeling.panel import Panel
from actors.labeling.shard import label_shard
from actors.reading.config import MediaConfig
from actors.reading.reader import Needs, ShardOpened, ShardReader
from actors.reading.utterance import Utterance
from actors.work.task import ShardProgress, ShardTask
from shards.config_values import from_mapping
from shards.errors import reason_code
from shards.media.audio import decode_audio
from shards.media.container import DAMAGE_CODES
from shards.media.face_config import FaceConfig
from shards.media.faces import FaceCropper
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample, encode_sample
from shards.storage.ranged_reader import BytesReader
from shards.tar.reader import TarWriter, index_shard
from tests.actors.inference.tiny_checkpoints import write_image
from tests.shards.media.pieces import Picture, encode_sound, encode_video, gray, tone
from tests.worlds.small import make_sample, write_checkpoints, write_shard

EVERYTHING = Needs(audio=True, vision=True)


def read(
    path: Path, needs: Needs = EVERYTHING, **options: object
) -> tuple[ShardOpened, list[Utterance]]:
    stream = ShardReader(MediaConfig(), needs).read(str(path), **options)  # type: ignore[arg-type]
    opened = next(stream)
    assert isinstance(opened, ShardOpened)
    return opened, [utterance for chunk in stream if isinstance(chunk, list) for utterance in chunk]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """Eight good utterances."""
    path = tmp_path / "shard.tar"
    write_shard(path, [make_sample(number) for number in range(8)])
    return path


def test_an_utterance_holds_what_its_sample_holds(shard: Path) -> None:
    """Sound, face, words, speaker and truth arrive decoded, with the sample's key and duration."""
    opened, utterances = read(shard)
    assert opened == ShardOpened(8, None)

    for number, utterance in enumerate(utterances):
        sample = make_sample(number)
        assert (utterance.index, utterance.key, utterance.speaker) == (
            number,
            sample.key,
            sample.speaker,
        )

        assert utterance.audio is not None
        np.testing.assert_array_equal(utterance.audio, decode_audio(sample.audio or b""))
        assert utterance.duration_seconds == pytest.approx(
            len(utterance.audio) / SAMPLE_RATE_HZ, abs=1e-3
        )

        np.testing.assert_array_equal(utterance.face_features, sample.face_features)
        assert (utterance.transcript, utterance.emotion) == (sample.transcript, sample.emotion)


def test_reading_from_the_middle_one_by_one_gives_the_same_utterances(shard: Path) -> None:
    """A replacement reader delivers the same utterances that the first one would have."""
    _, whole = read(shard)
    _, rest = read(shard, start=3, one_by_one=True)

    assert [utterance.index for utterance in rest] == [3, 4, 5, 6, 7]
    for ours, theirs in zip(rest, whole[3:], strict=True):
        np.testing.assert_array_equal(ours.audio, theirs.audio)
        assert (ours.key, ours.offset, ours.size) == (theirs.key, theirs.offset, theirs.size)


def test_sound_nobody_looks_at_is_not_decoded(shard: Path) -> None:
    """Sound is not decoded for a panel that needs only words."""
    _, utterances = read(shard, Needs(audio=False, vision=False))
    assert all(utterance.audio is None and utterance.error is None for utterance in utterances)


def test_corrupt_sound_is_a_reason_and_the_rest_is_read(tmp_path: Path) -> None:
    """One bad sample costs one utterance, which says why."""
    samples = [make_sample(number) for number in range(3)]
    object.__setattr__(samples[1], "audio", b"fLaC" + b"\x00" * 50)

    path = tmp_path / "shard.tar"
    write_shard(path, samples)

    _, utterances = read(path)
    assert [utterance.error is None for utterance in utterances] == [True, False, True]
    assert utterances[1].key == samples[1].key


class BrightFace:
    """A detector that takes a picture's bright part for a face."""

    def detect(self, picture: NDArray[np.uint8]) -> NDArray[np.float32]:
        rows, columns = np.nonzero(picture[..., 0] > 128)
        if len(rows) == 0:
            return np.empty((0, 5), np.float32)

        left, top = columns.min(), rows.min()
        return np.array([[left, top, columns.max() - left, rows.max() - top, 0.9]], np.float32)


FACES = FaceConfig(detector="not-loaded.onnx", size_pixels=32)
TONE = tone(300.0)
FACE = [np.pad(gray(230, width=24, height=24), ((12, 12), (20, 20), (0, 0)))] * 24
NO_FACE = [gray(20)] * 24


def watched(
    video: bytes, needs: Needs = EVERYTHING, faces: FaceConfig = FACES, **fields: object
) -> Utterance:
    """The utterance that a sample of this video, a transcript and `fields` is decoded to."""
    sample = Sample(
        key="a", video=video, video_format="mp4", transcript="the door is open", **fields
    )  # type: ignore[arg-type]

    stream = io.BytesIO()
    with TarWriter(stream) as writer:
        writer.add(sample.key, encode_sample(sample))

    reader = BytesReader(stream.getvalue())
    cropper = FaceCropper(faces, BrightFace())
    shard_reader = ShardReader(MediaConfig(faces=faces, max_audio_seconds=5.0), needs, cropper)
    return shard_reader.decode(reader, index_shard(reader).entries[0], 0)


def without_tables(video: bytes) -> bytes:
    """A recording that was never closed: its tables, which are written last, are missing."""
    return video[: video.index(b"moov") - 4]


def without_media(video: bytes) -> bytes:
    """The video with noise in place of its sound and pictures, which its tables still find."""
    start = video.index(b"mdat") + 4
    size = int.from_bytes(video[start - 8 : start - 4], "big") - 8
    return video[:start] + np.random.default_rng(0).bytes(size) + video[start + size :]


def test_a_whole_video_gives_sound_and_faces() -> None:
    """Sound and faces come from one file, with no remark."""
    utterance = watched(encode_video(FACE, sound=TONE))

    assert (utterance.error, utterance.remark) == (None, None)
    assert utterance.audio is not None
    assert len(utterance.audio) == pytest.approx(SAMPLE_RATE_HZ, abs=2048)
    assert utterance.faces is not None
    assert utterance.faces.shape == (2, 32, 32, 3)


@pytest.mark.parametrize(
    ("pictures", "sound", "has_sound", "has_faces", "codes"),
    [
        pytest.param(FACE, None, False, True, ["no_audio_track"], id="no sound"),
        pytest.param(FACE, TONE * 0, False, True, ["silent_audio"], id="silence"),
        pytest.param(NO_FACE, TONE, True, False, ["no_face"], id="no face"),
        pytest.param(NO_FACE, None, False, False, ["no_audio_track", "no_face"], id="neither"),
        pytest.param(None, TONE, True, False, ["no_video_track"], id="no pictures"),
    ],
)
def test_a_video_that_lacks_something_keeps_the_rest(
    pictures: list[Picture] | None,
    sound: NDArray[np.float64] | None,
    has_sound: bool,
    has_faces: bool,
    codes: list[str],
) -> None:
    """What is there is decoded, and each missing modality is remarked with its own reason."""
    if pictures is None:
        utterance = watched(encode_sound(TONE, rate_hz=48_000, container="mp4", codec="aac"))
    else:
        utterance = watched(encode_video(pictures, sound=sound))

    assert utterance.error is None
    assert (utterance.audio is not None, utterance.faces is not None) == (has_sound, has_faces)
    assert utterance.transcript == "the door is open"

    assert utterance.remark is not None
    assert [reason_code(reason) for reason in utterance.remark.split("; ")] == codes


@pytest.mark.parametrize(
    "damage", [without_tables, without_media, lambda _: b"", lambda _: b"no video at all"]
)
def test_a_broken_video_that_was_all_the_sound_is_a_lost_sample(
    damage: Callable[[bytes], bytes],
) -> None:
    """Nothing of such a sample is labeled, not even its words, as after a broken sound field."""
    utterance = watched(damage(encode_video(FACE, sound=TONE)))

    assert utterance.error is not None
    assert reason_code(utterance.error) in DAMAGE_CODES
    assert (utterance.audio, utterance.faces, utterance.remark) == (None, None, None)


def test_a_broken_video_beside_a_sound_field_costs_the_face_alone() -> None:
    """The sample loses its face and keeps the stored sound, so that it can be trained on."""
    stored = make_sample(0)
    utterance = watched(without_tables(encode_video(FACE)), audio=stored.audio, audio_format="flac")

    assert utterance.error is None
    np.testing.assert_array_equal(utterance.audio, decode_audio(stored.audio or b""))
    assert (utterance.remark or "").startswith("corrupt_video: ")


def test_a_broken_sound_field_beside_a_whole_video_is_a_lost_sample() -> None:
    """The sound field is the sound, and the video's track does not stand in for it."""
    utterance = watched(
        encode_video(FACE, sound=TONE), audio=b"fLaC not really", audio_format="flac"
    )
    assert (utterance.error or "").startswith("corrupt_audio: ")


def test_pictures_nobody_looks_at_are_not_missed() -> None:
    """Without a detector, without a need for faces, or with face.npy, a video is only sound."""
    video = encode_video(NO_FACE, sound=TONE)
    features = np.ones((3, 8), np.float32)

    unwatched = [
        watched(video, Needs(audio=True, vision=False)),
        watched(video, faces=FaceConfig()),
        watched(video, face_features=features),
    ]

    for utterance in unwatched:
        assert (utterance.error, utterance.remark, utterance.faces) == (None, None, None)
        assert utterance.audio is not None


def test_what_a_video_lacks_reaches_the_table(tmp_path: Path) -> None:
    """A row holds the predictions that its video allows, and a reason for each that is missing."""
    panel = crop_panel(tmp_path)

    videos = [encode_video(FACE, sound=TONE), encode_video(FACE), encode_video(NO_FACE, sound=TONE)]
    utterances = [watched(video) for video in [*videos, encode_video(NO_FACE), b"no video at all"]]

    task = ShardTask(
        url="shard.tar",
        name="shard.tar",
        size=1,
        version="1",
        table_url=str(tmp_path / "t.parquet"),
        maker="d",
    )

    outcome = label_shard(task, panel, utterances, shard_error=None, progress=ShardProgress())
    rows = pq.read_table(task.table_url).to_pylist()

    assert [
        tuple(row[name] is not None for name in ("audio", "vision", "text")) for row in rows
    ] == [
        (True, True, True),
        (False, True, True),
        (True, False, True),
        (False, False, True),
        (False, False, False),
    ]

    codes = [
        row["error"] and [reason_code(reason) for reason in row["error"].split("; ")]
        for row in rows
    ]
    assert codes == [
        None,
        ["no_audio_track"],
        ["no_face"],
        ["no_audio_track", "no_face"],
        ["unknown_audio_format"],
    ]

    assert outcome.rejected == {"no_audio_track": 2, "no_face": 1, "unknown_audio_format": 1}


def crop_panel(folder: Path) -> Panel:
    """A panel of small untrained labelers of voice, face crops and words."""
    checkpoints = write_checkpoints(folder / "checkpoints")
    values = {**checkpoints, "vision": {"checkpoint": str(write_image(folder / "image"))}}
    panel = Panel(from_mapping(PanelConfig, values, where="panel"))
    panel.setup(num_threads=1)
    return panel
