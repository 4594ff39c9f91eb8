"""The synthetic world's bytes are a function of the seed.

Its statistics are those that the configuration promises.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.emotions import EMOTIONS, NUM_EMOTIONS
from shards.media.audio import decode_audio
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample, encode_sample, parse_sample
from shards.storage.files import list_files, open_ranged
from shards.synthetic.config import Channel, Spread, WorldConfig, null_world
from shards.synthetic.corpus import World, iterate_samples, write_corpus
from shards.synthetic.face import NUM_FACE_CUES, show_face
from shards.synthetic.people import Person
from shards.synthetic.voice import NUM_VOICE_CUES, Voice, synthesize
from shards.synthetic.words import AMBIGUOUS_PHRASES, PHRASES, write_words
from shards.tar.reader import index_shard, read_members

SMALL = WorldConfig(seed=5, mean_utterances=4.0, min_utterances=3)
NOBODY_CONFLICTS = WorldConfig(
    voice=Channel(noise=0.0, conflict_rate=0.0),
    face=Channel(noise=0.0, conflict_rate=0.0),
    words_conflict_rate=0.0,
    shared_conflict_rate=0.0,
)


def test_the_corpus_has_the_same_bytes_on_one_process_and_on_two(tmp_path: Path) -> None:
    """A part of the corpus does not depend on who makes it or when."""
    for folder, num_workers in (("one", 1), ("two", 2)):
        write_corpus(
            SMALL,
            str(tmp_path / folder),
            speakers=range(4),
            speakers_per_shard=2,
            num_workers=num_workers,
        )

    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == ["world-000000.tar", "world-000001.tar"]

    for name in written:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_an_utterance_is_the_same_whatever_was_made_before_it() -> None:
    """Utterances draw from generators of their own, so their order does not matter."""
    in_order = [encode_sample(sample) for sample in iterate_samples(World(SMALL), [0, 1])]
    world = World(SMALL)
    backwards = [
        encode_sample(world.sample(world.speaker(index), utterance))
        for index in (1, 0)
        for utterance in reversed(range(world.speaker(index).num_utterances))
    ]
    assert in_order == backwards[::-1]


def test_another_seed_makes_another_world() -> None:
    """Another seed gives other sound."""
    first, second = (
        next(iterate_samples(World(replace(SMALL, seed=seed)), [0])) for seed in (5, 6)
    )
    assert first.audio != second.audio


def test_shards_read_back_through_the_projects_own_reader(tmp_path: Path) -> None:
    """Every sample passes the checks that foreign samples must pass.

    It carries what the contract names.
    """
    write_corpus(SMALL, str(tmp_path), speakers=[2, 3])
    samples = _read(tmp_path)

    assert [sample.key for sample in samples] == [
        sample.key for sample in iterate_samples(World(SMALL), [2, 3])
    ]

    for sample in samples:
        waveform = decode_audio(sample.audio or b"")
        assert len(waveform) / SAMPLE_RATE_HZ == pytest.approx(sample.metadata["duration_seconds"])
        assert 1.0 <= len(waveform) / SAMPLE_RATE_HZ <= 1.6

        assert sample.face_features is not None
        assert sample.face_features.shape == (
            round(10 * len(waveform) / SAMPLE_RATE_HZ),
            NUM_FACE_CUES,
        )

        assert sample.transcript
        assert sample.emotion in EMOTIONS
        assert sample.speaker in {"speaker-00002", "speaker-00003"}
        assert json.dumps(sample.metadata["simulation"])


def test_speakers_feel_emotions_by_their_own_prior() -> None:
    """Emotion counts fit the stored priors, by chi-square within five standard deviations.

    The counts are of 300 utterances of each of 40 speakers.
    """
    world = World(WorldConfig())
    speakers = [world.speaker(index) for index in range(40)]
    expected = 300 * np.stack([speaker.emotion_prior for speaker in speakers])
    statistic = float(((_emotion_counts(world, speakers, 300) - expected) ** 2 / expected).sum())
    degrees = 40 * (NUM_EMOTIONS - 1)
    assert abs(statistic - degrees) < 5 * np.sqrt(2 * degrees)
    assert np.stack([speaker.emotion_prior for speaker in speakers]).std(axis=0).max() > 0.05


def test_in_the_null_world_speakers_are_interchangeable() -> None:
    """Speakers share voice, style and prior, and the counts of 40 speakers tell nobody apart."""
    world = World(null_world(seed=3))
    speakers = [world.speaker(index) for index in range(40)]

    assert {speaker.voice for speaker in speakers} == {Voice(f0_center_hz=150.0, tract_scale=1.08)}
    for speaker in speakers:
        np.testing.assert_array_equal(
            speaker.emotion_prior, np.full(NUM_EMOTIONS, 1 / NUM_EMOTIONS)
        )
        assert not np.any([*speaker.voice_baseline, *speaker.face_baseline, *speaker.label_mean])
        assert {*speaker.voice_gain, *speaker.face_gain, *speaker.label_spread} == {1.0}

    expected = 300 / NUM_EMOTIONS
    statistic = float(((_emotion_counts(world, speakers, 300) - expected) ** 2 / expected).sum())
    degrees = 40 * (NUM_EMOTIONS - 1)
    assert abs(statistic - degrees) < 5 * np.sqrt(2 * degrees)


def test_conflicts_come_at_their_rates_and_independently() -> None:
    """Channels show something else as often as configured.

    Two do so at once no more often than by chance.
    """
    config = replace(NOBODY_CONFLICTS, voice=Channel(conflict_rate=0.3), words_conflict_rate=0.2)
    world = World(config)
    truths = [
        world.truth(world.speaker(index), utterance)
        for index in range(20)
        for utterance in range(100)
    ]

    voice = np.array([truth.shown_by_voice != truth.emotion for truth in truths])
    words = np.array([truth.shown_by_words != truth.emotion for truth in truths])

    assert all(truth.shown_by_face == truth.emotion for truth in truths)
    for seen, rate in ((voice.mean(), 0.3), (words.mean(), 0.2), ((voice & words).mean(), 0.06)):
        assert abs(seen - rate) < 5 * np.sqrt(rate * (1 - rate) / len(truths))


def test_an_independent_channel_tells_nothing_about_what_is_felt() -> None:
    """It shows the emotions of the speaker's prior, and the felt one no more often than by chance.

    A channel that always conflicts would tell something: that its emotion is not felt.
    """
    config = replace(
        NOBODY_CONFLICTS,
        voice=Channel(noise=0.0, conflict_rate=0.0, independent_rate=1.0),
        words_independent_rate=0.4,
    )
    world = World(config)
    person = world.speaker(7)
    truths = [world.truth(person, utterance) for utterance in range(4000)]
    felt, voice, words = (
        np.array([getattr(truth, name) for truth in truths])
        for name in ("emotion", "shown_by_voice", "shown_by_words")
    )

    shown = np.bincount(voice, minlength=NUM_EMOTIONS) / len(voice)
    assert np.abs(shown - person.emotion_prior).max() < 0.04
    by_chance = float(np.sum(person.emotion_prior**2))
    for seen, rate in (((felt == voice).mean(), 1.0), ((felt == words).mean(), 0.4)):
        expected = 1.0 - rate * (1.0 - by_chance)
        assert abs(seen - expected) < 4 * np.sqrt(by_chance * (1 - by_chance) / len(felt))


def test_where_nothing_is_felt_every_channel_is_neutral() -> None:
    """A pool of neutral speech stands in for books that are read aloud."""
    world = World(replace(WorldConfig(seed=2), emotional_rate=0.0))
    truths = [world.truth(world.speaker(1), utterance) for utterance in range(50)]

    for truth in truths:
        assert truth.emotion == truth.shown_by_voice == 0
        assert truth.shown_by_face == truth.shown_by_words == 0


def test_new_clauses_leave_the_bytes_of_former_worlds_as_they_were() -> None:
    """Independence is drawn last: truths without it are those with a rate next to nothing."""
    config = WorldConfig(seed=9)
    rare = replace(config, voice=replace(config.voice, independent_rate=1e-12))
    before, after = World(config), World(rare)

    for utterance in range(30):
        assert before.truth(before.speaker(0), utterance) == after.truth(
            after.speaker(0), utterance
        )


def test_a_shared_conflict_shows_the_same_other_emotion_everywhere() -> None:
    """In a shared conflict, the channels agree on the same wrong emotion."""
    world = World(replace(NOBODY_CONFLICTS, shared_conflict_rate=1.0))
    for utterance in range(30):
        truth = world.truth(world.speaker(0), utterance)
        assert truth.shown_by_voice == truth.shown_by_face == truth.shown_by_words != truth.emotion


def test_changing_the_words_leaves_sound_and_face_as_they_were() -> None:
    """Each channel draws for itself, so an experiment can change only one."""
    plain, quoted = (
        list(iterate_samples(World(replace(SMALL, words_conflict_rate=rate)), range(3)))
        for rate in (0.0, 1.0)
    )
    assert [sample.audio for sample in plain] == [sample.audio for sample in quoted]
    assert any(one.transcript != other.transcript for one, other in zip(plain, quoted, strict=True))
    for one, other in zip(plain, quoted, strict=True):
        np.testing.assert_array_equal(one.face_features, other.face_features)


def test_groups_share_what_is_called_shared() -> None:
    """With nothing of their own, members of a group are alike, and groups differ.

    With nothing shared, all speakers differ.
    """
    shared = World(
        WorldConfig(voice_baseline=Spread(shared=1.0), label_log_spread=Spread(shared=0.5))
    )

    speakers = [shared.speaker(index) for index in range(30)]
    groups = {speaker.group for speaker in speakers}
    assert len(groups) == 6
    assert len({tuple(speaker.voice_baseline) for speaker in speakers}) == len(groups)
    assert len({tuple(speaker.label_spread) for speaker in speakers}) == len(groups)

    own = World(WorldConfig(voice_baseline=Spread(own=1.0)))
    assert len({tuple(own.speaker(index).voice_baseline) for index in range(30)}) == 30


def test_groups_can_be_heard() -> None:
    """The vocal tracts of one group lie closer together than those of neighboring groups.

    Only groups of the same voice type are compared.
    """
    world = World(WorldConfig())
    speakers = [world.speaker(index) for index in range(120)]
    for voice_type in (0, 1):
        scales = {
            group: [speaker.voice.tract_scale for speaker in speakers if speaker.group == group]
            for group in range(voice_type, 6, 2)
        }
        means = [np.mean(scales[group]) for group in sorted(scales)]
        assert np.diff(means).min() > 2 * max(np.std(scales[group]) for group in scales)


def test_arousal_and_valence_follow_the_speakers_own_scale() -> None:
    """Without noise, a neutral and a happy utterance give the speaker's label mean and spread."""
    world = World(
        replace(NOBODY_CONFLICTS, affect_noise=0.0, intensity_spread=0.0, mean_utterances=60.0)
    )

    speaker = world.speaker(0)
    labels = {
        sample.emotion: np.array(
            [sample.metadata["arousal"], sample.metadata["valence"]], dtype=np.float64
        )
        for sample in iterate_samples(world, [0])
    }

    difference = labels["happiness"] - labels["neutral"]
    np.testing.assert_allclose(difference / speaker.label_spread, [0.7, 0.7], atol=1e-9)
    np.testing.assert_allclose(
        labels["neutral"] - speaker.label_spread * [-0.2, 0.0], speaker.label_mean, atol=1e-9
    )


def test_numbers_of_utterances_vary_around_their_mean() -> None:
    """Numbers of utterances are log-normal, with the configured mean and floor."""
    world = World(WorldConfig(mean_utterances=36.0, utterance_count_spread=0.35, min_utterances=12))
    counts = np.array([world.speaker(index).num_utterances for index in range(300)])
    assert counts.min() >= 12
    assert counts.mean() == pytest.approx(36.0, abs=2.5)
    assert np.log(counts).std() == pytest.approx(0.35, abs=0.06)


@pytest.mark.parametrize("index", range(8))
def test_the_pitch_measured_in_a_recording_is_the_speakers(index: int) -> None:
    """The pitch of neutral utterances is the planned one, within 6 %.

    It is measured by autocorrelation of the decoded FLAC.
    """
    world = World(replace(NOBODY_CONFLICTS, mean_utterances=30.0, min_signal_to_noise_db=30.0))
    speaker = world.speaker(index)
    neutral = [n for n in range(30) if world.truth(speaker, n).emotion == 0][:3]
    measured = [_median_pitch(decode_audio(world.sample(speaker, n).audio or b"")) for n in neutral]
    assert np.median(measured) == pytest.approx(
        speaker.voice.f0_hz(speaker.voice_baseline[0]), rel=0.06
    )


def test_energy_and_vocal_tract_are_heard() -> None:
    """A cue unit of energy is 3.5 dB.

    A shorter vocal tract moves the spectrum up at the same pitch.
    """
    quiet, loud = (
        _speak(Voice(f0_center_hz=120.0, tract_scale=1.0), cues=[0, 0, energy, 0, 0, 0, 0])
        for energy in (0.0, 2.0)
    )
    assert 20 * np.log10(np.std(loud) / np.std(quiet)) == pytest.approx(7.0, abs=0.2)

    long, short = (
        _speak(Voice(f0_center_hz=120.0, tract_scale=scale), seconds=8.0) for scale in (1.0, 1.16)
    )
    assert _spectral_centroid(short) > 1.08 * _spectral_centroid(long)


@settings(max_examples=30, deadline=None)
@given(
    cues=st.lists(st.floats(-50, 50), min_size=NUM_VOICE_CUES, max_size=NUM_VOICE_CUES),
    f0_hz=st.floats(50, 400),
    seconds=st.floats(0.5, 3.0),
)
def test_any_cues_make_a_waveform(cues: list[float], f0_hz: float, seconds: float) -> None:
    """Extreme styles stay finite, within full scale, audible, and as long as asked for."""
    waveform = _speak(Voice(f0_center_hz=f0_hz, tract_scale=1.2), cues=cues, seconds=seconds)
    assert waveform.shape == (round(seconds * SAMPLE_RATE_HZ),)
    assert np.isfinite(waveform).all()
    assert 1e-3 < np.abs(waveform).max() <= 0.99


@given(
    cues=st.lists(st.floats(-50, 50), min_size=NUM_FACE_CUES, max_size=NUM_FACE_CUES),
    num_frames=st.integers(1, 40),
)
def test_action_units_stay_on_their_scale(cues: list[float], num_frames: int) -> None:
    """Intensities are 0 to 5 whatever is shown; only head angles may be negative."""
    features = show_face(
        np.array(cues),
        np.zeros(NUM_FACE_CUES),
        num_frames=num_frames,
        frame_noise=0.3,
        rng=np.random.default_rng(0),
    )

    assert features.shape == (num_frames, NUM_FACE_CUES)
    assert features.dtype == np.float32
    assert 0 <= features[:, :17].min() <= features[:, :17].max() <= 5


def test_words_show_the_emotion_unless_they_do_not_speak_of_it() -> None:
    """Words that are spoken and unambiguous have a phrase of that emotion alone.

    Unspoken ones have nothing that neutral speech lacks.
    """
    rng = np.random.default_rng(0)
    assert len({phrase for phrases in PHRASES for phrase in phrases}) == sum(map(len, PHRASES))

    for emotion in range(1, NUM_EMOTIONS):
        spoken = [
            write_words(emotion, spoken_probability=1.0, ambiguous_rate=0.0, rng=rng)
            for _ in range(20)
        ]
        assert all(any(phrase in text for phrase in PHRASES[emotion]) for text in spoken)

        ambiguous = write_words(emotion, spoken_probability=1.0, ambiguous_rate=1.0, rng=rng)
        assert any(
            phrase in ambiguous for phrase, users in AMBIGUOUS_PHRASES.items() if emotion in users
        )

        unspoken = [
            write_words(emotion, spoken_probability=0.0, ambiguous_rate=0.5, rng=rng)
            for _ in range(20)
        ]
        assert not any(
            phrase in text for text in unspoken for phrases in PHRASES[1:] for phrase in phrases
        )


def test_the_configuration_survives_a_round_trip_through_plain_values() -> None:
    """A world can be described in YAML, nested strengths included."""
    config = replace(
        null_world(seed=4), prior=Spread(shared=0.25), face=Channel(noise=0.1, conflict_rate=0.2)
    )
    assert from_mapping(WorldConfig, to_mapping(config)) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"f0_centers_hz": (115.0,)}, "tract_scales"),
        ({"f0_centers_hz": (115.0, 900.0)}, "50 to 400 Hz"),
        ({"tract_scales": (1.0, 3.0)}, "0.7 to 1.6"),
        ({"num_groups": 1}, "num_groups"),
        ({"emotion_prior": (1.0, 0.0)}, "emotion_prior"),
        ({"ambiguous_rate": 1.5}, "ambiguous_rate"),
        ({"intensity_spread": float("nan")}, "intensity_spread"),
        ({"min_utterances": 50}, "mean_utterances"),
        ({"min_seconds": 2.0}, "max_seconds"),
        ({"min_signal_to_noise_db": 50.0}, "max_signal_to_noise_db"),
        ({"frames_per_second": 0.0}, "frames_per_second"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_world_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    """The error names the option of a world that cannot be."""
    with pytest.raises(ConfigError, match=message):
        WorldConfig(**changes)


def test_strengths_below_nothing_are_refused() -> None:
    """Spreads and noise must not be below 0, and conflicts must be shares."""
    with pytest.raises(ConfigError, match="own"):
        Spread(own=-0.1)
    with pytest.raises(ConfigError, match="noise"):
        Channel(noise=-1.0)
    with pytest.raises(ConfigError, match="conflict_rate"):
        Channel(conflict_rate=1.1)


def _read(folder: Path) -> list[Sample]:
    samples = []
    for file in list_files(str(folder)):
        with open_ranged(file.url) as reader:
            index = index_shard(reader)
            assert index.error is None
            samples += [
                parse_sample(entry.key, read_members(reader, entry)) for entry in index.entries
            ]
    return samples


def _emotion_counts(
    world: World, speakers: Sequence[Person], num_utterances: int
) -> NDArray[np.int64]:
    felt = [
        [world.truth(speaker, n).emotion for n in range(num_utterances)] for speaker in speakers
    ]
    return np.stack([np.bincount(emotions, minlength=NUM_EMOTIONS) for emotions in felt])


def _speak(
    voice: Voice, *, cues: Sequence[float] = (0,) * NUM_VOICE_CUES, seconds: float = 2.0
) -> NDArray[np.float32]:
    return synthesize(
        voice, np.array(cues, dtype=np.float64), seconds, 40.0, np.random.default_rng(1)
    )


def _median_pitch(waveform: NDArray[np.float32]) -> float:
    """The median pitch of the louder 40 ms frames.

    The pitch of a frame is the highest peak of its autocorrelation between 60 and 400 Hz.
    """
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 640)[::160]
    frames = frames[frames.std(axis=1) > np.median(frames.std(axis=1))]

    spectrum = np.fft.rfft(frames - frames.mean(axis=1, keepdims=True), 2048)
    correlation = np.fft.irfft(np.abs(spectrum) ** 2)[:, :640] / (640 - np.arange(640))

    shortest, longest = SAMPLE_RATE_HZ // 400, SAMPLE_RATE_HZ // 60
    lags = correlation[:, shortest:longest]
    # The first peak near the highest: multiples of the period correlate as well as the period.
    first = (lags > 0.85 * lags.max(axis=1, keepdims=True)).argmax(axis=1)

    peaks = [start + lags[row, start : start + 12].argmax() for row, start in enumerate(first)]
    return float(SAMPLE_RATE_HZ / (shortest + np.median(peaks)))


def _spectral_centroid(waveform: NDArray[np.float32]) -> float:
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return float((np.fft.rfftfreq(len(waveform), 1 / SAMPLE_RATE_HZ) * power).sum() / power.sum())
