"""The embedded corpus: a small audio-visual world, deterministic from a seed, whose truth is known.

It is synthetic, and every page that shows its numbers must say so.

The story, clause by clause (each has its strength in `WorldConfig`):
- A **speaker** belongs to a hidden group that can be heard, has a voice, a resting face, habits and
  an expressive style, and feels some emotions more often than others (`people.py`).
- An utterance's **emotion** is felt, then shown by voice, face and words, each relative to the
  speaker's own habit, so one utterance alone cannot tell an angry tone from an angry-sounding
  person. Now and then a channel honestly shows something else (`truth.py`).
- Speakers may talk to each other in **dialogues**, in which emotions last and spread
  (`dialogues.py`), and in other **languages** (`languages.py`).
- What is shown is **recorded**: a waveform (`voice.py`), action units (`face.py`), a transcript
  (`words.py`), each with noise of its own. **Raters** judge what they are given to hear or see
  (`raters.py`).
- Speakers may have a sex, an age and a background, and raters may read some of them better than
  others (`demographics.py`).

Every draw comes from a generator keyed by (seed, speaker, utterance, part of the story): utterances
can be made in any order and on any number of processes, and changing one channel leaves the others'
bytes as they were. The bytes are those of one machine and one libFLAC; another CPU's vector units
may round a sample differently.

Rejected: one generator drawn from in order (a corpus could only be made serially), and storing the
corpus in the repository (a hundred megabytes to keep what twenty seconds make).
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from shards.emotions import EMOTIONS
from shards.media.audio import encode_flac
from shards.media.sound_format import SAMPLE_RATE_HZ
from shards.samples.sample import Sample, encode_sample
from shards.storage.files import atomic_write, join, make_directory
from shards.synthetic.config import WorldConfig
from shards.synthetic.dialogues import Dialogue, Place
from shards.synthetic.face import SHOWN_BY_FACE, show_face
from shards.synthetic.languages import language
from shards.synthetic.people import Person, draw_speaker
from shards.synthetic.raters import draw_noise, draw_votes, vote_probabilities
from shards.synthetic.truth import UtteranceTruth, draw_emotion, draw_truth, rate_affect
from shards.synthetic.voice import NUM_VOICE_CUES, SHOWN_BY_VOICE, synthesize
from shards.synthetic.words import write_words
from shards.tar.reader import TarWriter

_UTTERANCE_STREAM = 3
_TRUTH, _VOICE, _FACE, _WORDS, _RATINGS, _AFFECT = range(6)


class World:
    """All speakers and utterances of a configuration, made on demand.

    A speaker's number is any whole number from 0.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self._dialogue: Dialogue | None = None

    def speaker(self, index: int) -> Person:
        """The speaker of number `index`."""
        return draw_speaker(self.config, index)

    def truth(self, speaker: Person, utterance: int) -> UtteranceTruth:
        """What is felt and shown in one utterance, without recording it."""
        place = self.place(speaker, utterance)

        return draw_truth(
            self.config,
            speaker,
            self._generator(speaker.index, utterance, _TRUTH),
            None if place is None else place.emotion,
        )

    def place(self, speaker: Person, utterance: int) -> Place | None:
        """Where one utterance stands in its dialogue; None in a world without dialogues."""
        if self.config.dialogue is None:
            return None

        number = speaker.index // 2
        # The last dialogue is kept: it is asked for utterance by utterance.
        if self._dialogue is None or self._dialogue.number != number:
            self._dialogue = Dialogue(
                self.config.seed, number, self.config.dialogue, self._felt_alone
            )
        return self._dialogue.place(speaker.index, utterance)

    def sample(self, speaker: Person, utterance: int) -> Sample:
        """One utterance as it lies in a shard: FLAC, face features, transcript and json.

        The json holds the truth.
        """
        truth = self.truth(speaker, utterance)
        waveform = self._record_voice(speaker, utterance, truth)

        return Sample(
            key=f"{speaker.name}-{utterance:04d}",
            audio=encode_flac(waveform, SAMPLE_RATE_HZ),
            audio_format="flac",
            face_features=self._record_face(speaker, utterance, truth),
            transcript=self._record_words(speaker, utterance, truth),
            metadata=self._describe(speaker, utterance, truth, len(waveform) / SAMPLE_RATE_HZ),
        )

    def vote_probabilities(self, speaker: Person, utterance: int) -> dict[str, NDArray[np.float64]]:
        """How the votes for voice, face and audio-visual stimulus of an utterance are distributed.

        Each is over `config.raters.answers`: the truth that the ratings are drawn from.
        """
        return self._judge(
            speaker,
            self.truth(speaker, utterance),
            self._generator(speaker.index, utterance, _RATINGS),
        )

    def ratings(self, speaker: Person, utterance: int) -> dict[str, dict[str, int]]:
        """The vote counts of an utterance by stimulus and emotion, without recording it."""
        rng = self._generator(speaker.index, utterance, _RATINGS)
        probabilities = self._judge(speaker, self.truth(speaker, utterance), rng)

        return draw_votes(self.config.raters, probabilities, rng)

    def _judge(
        self, speaker: Person, truth: UtteranceTruth, rng: np.random.Generator
    ) -> dict[str, NDArray[np.float64]]:
        return vote_probabilities(
            self.config.raters,
            truth.shown,
            intensity=truth.intensity,
            noise=draw_noise(rng),
            legibility=speaker.legibility,
        )

    def _felt_alone(self, speaker: int, utterance: int) -> int:
        return draw_emotion(self.speaker(speaker), self._generator(speaker, utterance, _TRUTH))

    def _generator(self, speaker: int, utterance: int, part: int) -> np.random.Generator:
        key = (_UTTERANCE_STREAM, speaker, utterance, part)
        return np.random.default_rng(np.random.SeedSequence(self.config.seed, spawn_key=key))

    def _record_voice(
        self, speaker: Person, utterance: int, truth: UtteranceTruth
    ) -> NDArray[np.float32]:
        rng = self._generator(speaker.index, utterance, _VOICE)
        shown = truth.intensity * speaker.voice_gain * SHOWN_BY_VOICE[truth.shown_by_voice]
        noise = self.config.voice.noise * rng.standard_normal(NUM_VOICE_CUES)

        return synthesize(
            speaker.voice,
            speaker.voice_baseline + shown + noise,
            truth.duration_seconds,
            rng.uniform(self.config.min_signal_to_noise_db, self.config.max_signal_to_noise_db),
            rng,
            language(self.config.language).vowels_hz,
        )

    def _record_face(
        self, speaker: Person, utterance: int, truth: UtteranceTruth
    ) -> NDArray[np.float32]:
        rng = self._generator(speaker.index, utterance, _FACE)
        shown = truth.intensity * speaker.face_gain * SHOWN_BY_FACE[truth.shown_by_face]
        noise = self.config.face.noise * rng.standard_normal(len(shown))

        return show_face(
            shown + noise,
            speaker.face_baseline,
            num_frames=max(1, round(truth.duration_seconds * self.config.frames_per_second)),
            frame_noise=self.config.face_frame_noise,
            rng=rng,
        )

    def _record_words(self, speaker: Person, utterance: int, truth: UtteranceTruth) -> str:
        words = write_words(
            truth.shown_by_words,
            spoken_probability=speaker.spoken_probability,
            ambiguous_rate=self.config.ambiguous_rate,
            rng=self._generator(speaker.index, utterance, _WORDS),
        )
        return language(self.config.language).write(words)

    def _describe(
        self, speaker: Person, utterance: int, truth: UtteranceTruth, duration_seconds: float
    ) -> dict[str, object]:
        """The sample's `json`; under `simulation` is what no real corpus could know."""
        arousal, valence = rate_affect(
            self.config, speaker, truth, self._generator(speaker.index, utterance, _AFFECT)
        )

        place = self.place(speaker, utterance)
        demographics = {} if speaker.demographics is None else speaker.demographics.as_json()

        return {
            "speaker": speaker.name,
            "language": language(self.config.language).name,
            "duration_seconds": duration_seconds,
            **({} if place is None else {"dialogue": place.dialogue, "turn": place.turn}),
            "emotion": EMOTIONS[truth.emotion],
            "arousal": arousal,
            "valence": valence,
            "ratings": self.ratings(speaker, utterance),
            "demographics": {"voice_type": speaker.voice_type, **demographics},
            "simulation": {
                "group": speaker.group,
                "intensity": truth.intensity,
                "shown": {channel: EMOTIONS[emotion] for channel, emotion in truth.shown.items()},
            },
        }


def iterate_samples(world: World, speakers: Iterable[int]) -> Iterator[Sample]:
    """Every utterance of the speakers of these numbers, speaker by speaker."""
    for index in speakers:
        speaker = world.speaker(index)
        for utterance in range(speaker.num_utterances):
            yield world.sample(speaker, utterance)


def write_corpus(
    config: WorldConfig,
    out_dir: str,
    *,
    speakers: Sequence[int],
    speakers_per_shard: int = 10,
    num_workers: int = 1,
) -> list[str]:
    """Write the utterances of `speakers` as shards `world-000000.tar` ... and return their URLs.

    They lie in `out_dir`, and each holds whole speakers. The bytes do not depend on `num_workers`,
    the number of processes.
    """
    make_directory(out_dir)
    parts = [
        speakers[start : start + speakers_per_shard]
        for start in range(0, len(speakers), speakers_per_shard)
    ]
    urls = [join(out_dir, f"world-{number:06d}.tar") for number in range(len(parts))]

    if num_workers <= 1:
        for url, part in zip(urls, parts, strict=True):
            _write_shard(config, url, part)
        return urls

    # Spawned: the caller may have threads (torch, Ray), which a forked child would inherit locked.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")) as pool:
        for _ in pool.map(partial(_write_shard, config), urls, parts):
            pass

    return urls


def _write_shard(config: WorldConfig, url: str, speakers: Sequence[int]) -> None:
    with atomic_write(url) as stream:
        writer = TarWriter(stream)
        for sample in iterate_samples(World(config), speakers):
            writer.add(sample.key, encode_sample(sample))
        writer.close()
