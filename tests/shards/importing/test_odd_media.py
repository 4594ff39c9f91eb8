"""Media that shards do not hold are converted when they are imported, and parts are cut; each with
the seconds that the ffmpeg command line (5.1) decodes, or ffprobe reads from the edit list (mov,
3gp, m4b).
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from shards.importing.config import ImportConfig
from shards.importing.job import ImportReport, import_table
from shards.media.audio import decode_audio
from shards.media.frames import sampled_frames
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample, parse_sample
from shards.storage.files import open_ranged
from shards.tar.reader import index_shard, read_members
from tests.shards.media.pieces import encode_sound, encode_video, gray, tone

ODD = Path(__file__).parent.parent / "media" / "odd"


def by_soundfile(kind: str) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, tone(440.0, rate_hz=44_100), 44_100, format=kind, subtype="PCM_16")
    return stream.getvalue()


def by_ffmpeg(container: str, codec: str, rate_hz: int = 44_100) -> bytes:
    source = tone(440.0, rate_hz=rate_hz)
    return encode_sound(source, rate_hz=rate_hz, container=container, codec=codec)


def film(container: str, codec: str, sound_codec: str) -> bytes:
    return encode_video(
        [gray(90)] * 24,
        container=container,
        codec=codec,
        sound=tone(440.0, rate_hz=44_100),
        sound_rate_hz=44_100,
        sound_codec=sound_codec,
    )


def two_tracks(container: str = "matroska", codec: str = "pcm_s16le") -> bytes:
    """A file with a tone of 300 Hz and, marked as the default, one of 1,000 Hz."""
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        tracks = [output.add_stream(codec, rate=16_000, layout="mono") for _ in range(2)]
        tracks[0].disposition, tracks[1].disposition = 0, 1
        for track, hz in zip(tracks, (300.0, 1000.0), strict=True):
            samples = (tone(hz, rate_hz=16_000) * 32767).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, 0
            output.mux([*track.encode(frame), *track.encode(None)])
    return stream.getvalue()


def pitch(sound: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(sound))) * SAMPLE_RATE_HZ / len(sound))


def run(folder: Path, rows: list[dict[str, Any]], **options: Any) -> ImportReport:
    table = folder / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    config = ImportConfig(table=str(table), root=str(folder), out=str(folder / "out"), **options)
    return import_table(config)


def samples(folder: Path) -> dict[str, Sample]:
    found = {}
    for shard in (folder / "out").glob("*.tar"):
        with open_ranged(str(shard)) as reader:
            for entry in index_shard(reader).entries:
                found[entry.key] = parse_sample(entry.key, read_members(reader, entry))
    return found


def reasons(folder: Path) -> dict[str, str]:
    table = pq.read_table(folder / "out" / "import-rejected.parquet")
    return {row["key"]: row["reason"] for row in table.to_pylist()}


# extension: (file, extension in the shard, seconds by the ffmpeg command line)
SOUND: dict[str, tuple[Callable[[], bytes], str, float]] = {
    "aiff": (lambda: by_soundfile("AIFF"), "flac", 1.0),
    "caf": (lambda: by_soundfile("CAF"), "flac", 1.0),
    "w64": (lambda: by_soundfile("W64"), "flac", 1.0),
    "au": (lambda: by_soundfile("AU"), "flac", 1.0),
    "aac": (lambda: by_ffmpeg("adts", "aac"), "flac", 1.045),
    "wma": (lambda: (ODD / "sound.wma").read_bytes(), "flac", 0.992),
    "amr": (lambda: by_ffmpeg("amr", "libopencore_amrnb", 8000), "flac", 1.02),
    "mp2": (lambda: by_ffmpeg("mp2", "mp2"), "flac", 1.019),
    "webm": (lambda: (ODD / "sound.webm").read_bytes(), "flac", 1.0),
    "mka": (lambda: by_ffmpeg("matroska", "pcm_s16le"), "flac", 1.0),
    "avi": (lambda: film("avi", "mpeg4", "libmp3lame"), "flac", 1.045),
    "mov": (lambda: (ODD / "phone.mov").read_bytes(), "flac", 1.0),
    "3gp": (lambda: film("3gp", "libx264", "aac"), "flac", 1.0),
    "oga": (lambda: by_ffmpeg("ogg", "flac"), "ogg", 1.0),
    "m4b": (lambda: (ODD / "sound.m4a").read_bytes(), "m4a", 1.0),
}


MADE_OF_220_HZ = {"webm", "m4b"}


@pytest.mark.parametrize("extension", SOUND)
def test_sound_of_any_format_comes_in(extension: str, tmp_path: Path) -> None:
    """What a shard holds is kept; all other sound becomes FLAC at its own rate."""
    make, becomes, seconds = SOUND[extension]
    (tmp_path / f"a.{extension}").write_bytes(make())
    run(tmp_path, [{"key": "a", "audio": f"a.{extension}"}])
    assert reasons(tmp_path) == {}
    sample = samples(tmp_path)["a"]
    assert sample.audio_format == becomes
    assert sample.audio is not None
    sound = decode_audio(sample.audio)
    assert len(sound) / SAMPLE_RATE_HZ == pytest.approx(seconds, abs=0.006)
    assert pitch(sound) == pytest.approx(220 if extension in MADE_OF_220_HZ else 440, abs=2)
    if becomes == "flac":
        assert soundfile.info(io.BytesIO(sample.audio)).subtype == "PCM_16"


@pytest.mark.parametrize("extension", sorted(set(SOUND) - {"aac", "amr", "mp2", "oga"}))
def test_sound_that_was_cut_is_not_converted(extension: str, tmp_path: Path) -> None:
    """Damage is looked for in every format that can show it."""
    data = SOUND[extension][0]()
    (tmp_path / f"a.{extension}").write_bytes(data[: len(data) * 2 // 3])
    run(tmp_path, [{"key": "a", "audio": f"a.{extension}"}])
    assert reasons(tmp_path)["a"].split(":")[0] in {"truncated_audio", "corrupt_audio"}


FILMS: dict[str, tuple[Callable[[], bytes], str]] = {
    "avi": (lambda: film("avi", "mpeg4", "libmp3lame"), "mkv"),
    "ts": (lambda: film("mpegts", "libx264", "aac"), "mkv"),
    "mov": (lambda: (ODD / "phone.mov").read_bytes(), "mp4"),
    "3gp": (lambda: film("3gp", "libx264", "aac"), "mp4"),
}


@pytest.mark.parametrize("extension", FILMS)
def test_a_film_of_another_container_keeps_its_pictures_and_sound(
    extension: str, tmp_path: Path
) -> None:
    """Nothing is encoded anew: the packets move, or the file only gets its proper name."""
    make, becomes = FILMS[extension]
    (tmp_path / f"a.{extension}").write_bytes(make())
    run(tmp_path, [{"key": "a", "video": f"a.{extension}"}])
    assert reasons(tmp_path) == {}
    sample = samples(tmp_path)["a"]
    assert sample.video_format == becomes
    assert sample.video is not None
    pictures = sampled_frames(sample.video, frames_per_second=12, max_frames=100)
    assert sum(repeats for _, repeats in pictures) == pytest.approx(12, abs=1)
    assert len(decode_audio(sample.video)) / SAMPLE_RATE_HZ == pytest.approx(1.0, abs=0.05)


def test_a_film_that_does_not_fit_says_so(tmp_path: Path) -> None:
    """Flash video has a codec that Matroska does not know."""
    (tmp_path / "a.flv").write_bytes(film("flv", "flv", "libmp3lame"))
    run(tmp_path, [{"key": "a", "video": "a.flv"}])
    assert reasons(tmp_path)["a"].startswith("cannot_remux: ")


def test_the_same_import_gives_the_same_bytes(tmp_path: Path) -> None:
    """FLAC and Matroska are written without random numbers."""
    (tmp_path / "a.avi").write_bytes(film("avi", "mpeg4", "libmp3lame"))
    (tmp_path / "b.aac").write_bytes(by_ffmpeg("adts", "aac"))
    rows = [{"key": "a", "video": "a.avi", "audio": None}, {"key": "b", "audio": "b.aac"}]
    shards = []
    for _ in range(2):
        run(tmp_path, rows)
        shards.append(sorted(path.read_bytes() for path in (tmp_path / "out").glob("*.tar")))
        (tmp_path / "out").rename(tmp_path / f"out-{len(shards)}")
    assert shards[0] == shards[1]


# Several sound tracks.


@pytest.mark.parametrize(
    ("audio_track", "column", "expected_hz"),
    [(None, "video", 1000), (1, "audio", 300), (2, "audio", 1000), (None, "audio", 1000)],
)
def test_the_default_track_is_heard_or_the_one_that_is_asked_for(
    audio_track: int | None, column: str, expected_hz: float, tmp_path: Path
) -> None:
    """A file with several tracks is remarked where nobody chose."""
    data = two_tracks()
    if column == "video":
        assert pitch(decode_audio(data)) == pytest.approx(expected_hz, abs=2)
        return
    (tmp_path / "a.mkv").write_bytes(data)
    run(tmp_path, [{"key": "a", "audio": "a.mkv"}], audio_track=audio_track)
    sample = samples(tmp_path)["a"]
    assert sample.audio is not None
    assert pitch(decode_audio(sample.audio)) == pytest.approx(expected_hz, abs=2)
    assert ("import_remark" in sample.metadata) == (audio_track is None)


@pytest.mark.parametrize(("audio_track", "expected_hz"), [(1, 300), (2, 1000)])
def test_a_file_that_is_kept_keeps_the_track_that_is_asked_for(
    audio_track: int, expected_hz: float, tmp_path: Path
) -> None:
    """The packets of the others are left out, and the length stays exact."""
    (tmp_path / "a.m4a").write_bytes(two_tracks("ipod", "aac"))
    run(tmp_path, [{"key": "a", "audio": "a.m4a"}], audio_track=audio_track)
    sample = samples(tmp_path)["a"]
    assert sample.audio_format == "m4a"
    assert set(sample.metadata) == {"duration_seconds"}
    assert sample.metadata["duration_seconds"] == pytest.approx(1.0, abs=0.1)
    assert sample.audio is not None
    sound = decode_audio(sample.audio)
    assert len(sound) == pytest.approx(SAMPLE_RATE_HZ, abs=2)
    assert pitch(sound) == pytest.approx(expected_hz, abs=2)


def test_a_track_that_is_not_there_is_a_reason(tmp_path: Path) -> None:
    """In a file that is converted, and in one that is kept."""
    (tmp_path / "a.mkv").write_bytes(two_tracks())
    (tmp_path / "b.wav").write_bytes(by_soundfile("WAV"))
    rows = [{"key": "a", "audio": "a.mkv"}, {"key": "b", "audio": "b.wav"}]
    run(tmp_path, rows, audio_track=3)
    assert {key: reason.split(":")[0] for key, reason in reasons(tmp_path).items()} == {
        "a": "no_audio_track",
        "b": "no_audio_track",
    }


# Parts of long recordings.


@pytest.fixture
def steps(tmp_path: Path) -> Path:
    """A recording of 10 s, in which each second has a pitch of its own: 200, 300 ... 1,100 Hz."""
    seconds = [tone(200.0 + 100 * number, rate_hz=22_050) for number in range(10)]
    soundfile.write(tmp_path / "long.wav", np.concatenate(seconds), 22_050, subtype="PCM_16")
    return tmp_path


def test_parts_of_a_recording_become_utterances(steps: Path) -> None:
    """Numbers and text of numbers count in seconds; the part is lossless, at its own rate."""
    rows = [
        {"key": f"part-{number}", "audio": "long.wav", "start": str(number), "end": f"{number + 1}"}
        for number in (3, 0, 7)
    ]
    run(steps, rows)
    source, rate_hz = soundfile.read(steps / "long.wav", dtype="int16")
    for key, sample in samples(steps).items():
        number = int(key.removeprefix("part-"))
        assert sample.audio is not None
        part, part_rate_hz = soundfile.read(io.BytesIO(sample.audio), dtype="int16")
        assert part_rate_hz == rate_hz
        np.testing.assert_array_equal(part, source[number * rate_hz : (number + 1) * rate_hz])
        assert (sample.metadata["start"], sample.metadata["end"]) == (number, number + 1)
    assert len(samples(steps)) == 3


def test_a_row_without_times_is_the_whole_recording(steps: Path) -> None:
    """A start alone reaches to the end, an end alone from the beginning."""
    rows = [
        {"key": "all", "audio": "long.wav", "start": None, "end": None},
        {"key": "rest", "audio": "long.wav", "start": 7.5, "end": None},
        {"key": "begin", "audio": "long.wav", "start": None, "end": 0.75},
    ]
    run(steps, rows)
    lengths = {
        key: len(decode_audio(sample.audio or b"")) / SAMPLE_RATE_HZ
        for key, sample in samples(steps).items()
    }
    assert lengths == pytest.approx({"all": 10, "rest": 2.5, "begin": 0.75}, abs=0.001)


@pytest.mark.parametrize(
    ("start", "end", "code"),
    [
        ("1:30", "2", "bad_cut"),
        ("-1", "2", "bad_cut"),
        ("2", "2", "bad_cut"),
        ("3", "1", "bad_cut"),
        ("inf", "", "bad_cut"),
        ("9", "10.5", "bad_cut"),
        ("12", "13", "bad_cut"),
        ("1", "1.01", "audio_too_short"),
    ],
)
def test_a_part_that_cannot_be_cut_is_a_reason(
    steps: Path, start: str, end: str, code: str
) -> None:
    """Nothing else is taken in its place."""
    run(steps, [{"key": "a", "audio": "long.wav", "start": start, "end": end}])
    assert reasons(steps)["a"].startswith(f"{code}: ")


def test_a_part_of_a_video_is_refused(steps: Path) -> None:
    """Only sound is cut."""
    (steps / "a.mp4").write_bytes(encode_video([gray(90)] * 4))
    run(steps, [{"key": "a", "video": "a.mp4", "start": 0.0, "end": 0.1}])
    assert reasons(steps)["a"].startswith("cannot_cut_video: ")
