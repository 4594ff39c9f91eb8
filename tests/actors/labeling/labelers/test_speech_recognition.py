from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, WhisperForConditionalGeneration, WhisperProcessor

from actors.inference.outcomes import Missing
from actors.labeling.labelers.config import SpeechRecognitionConfig
from actors.labeling.labelers.speech_recognition import SpeechRecognizer
from shards.config import ConfigError
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import write_audio, write_whisper

WINDOW_SAMPLES = 32_000  # of the tiny Whisper


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("whisper"))


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_whisper(tmp_path_factory.mktemp("multilingual"), languages=("en", "de", "fr"))


def make(
    folder: Path, *, batch_seconds: float = 0.0, language: str | None = None
) -> SpeechRecognizer:
    recognizer = SpeechRecognizer(
        SpeechRecognitionConfig(checkpoint=str(folder), language=language)
    )
    recognizer.setup(folder, cpu_runtime(batch_seconds=batch_seconds))
    return recognizer


def noises(*lengths: int) -> list[NDArray[np.float32]]:
    """Noise of different loudness and color, so that the toy model hears different words."""
    generator = np.random.default_rng(3)
    levels = (0.1, 0.3, 0.02, 0.2, 0.5, 0.05)
    return [
        np.convolve(level * generator.normal(size=length), np.ones(1 + 3 * index), "same").astype(
            np.float32
        )
        for index, (level, length) in enumerate(zip(levels, lengths, strict=False))
    ]


@pytest.mark.parametrize("languages", [(), ("en", "de", "fr")])
def test_a_transcript_does_not_depend_on_its_batchmates(
    folder: Path, multilingual: Path, languages: tuple[str, ...]
) -> None:
    """Alone, in batches of five windows and in another order, a recording gets the same words."""
    checkpoint = multilingual if languages else folder
    recordings = noises(8_000, 20_000, 32_000, 3_000, 70_000, 8_000)
    alone = [make(checkpoint).transcribe([recording])[0] for recording in recordings]
    assert len(set(alone)) > 3  # the words differ, so the comparison means something

    batched = make(checkpoint, batch_seconds=10.0)
    assert batched.transcribe(recordings) == alone
    assert batched.transcribe(recordings[::-1]) == alone[::-1]


def test_against_the_checkpoints_own_greedy_decoding(folder: Path) -> None:
    """The words are those of the model's arg max, token by token, on the processor's features."""
    (recording,) = noises(20_000)
    processor = WhisperProcessor.from_pretrained(folder)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()

    features = processor.feature_extractor(
        recording, sampling_rate=16_000, return_tensors="pt"
    ).input_features
    end, start, no_timestamps = processor.tokenizer.convert_tokens_to_ids(
        ["<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>"]
    )
    tokens = [start, no_timestamps]

    with torch.inference_mode():
        while len(tokens) < 12 and tokens[-1] != end:
            logits = model(
                input_features=features, decoder_input_ids=torch.tensor([tokens])
            ).logits[0, -1]
            tokens.append(int(logits.argmax()))

    expected = processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
    assert make(folder).transcribe([recording]) == [expected]
    assert expected


def test_sampling_and_beams_that_a_checkpoint_asks_for_are_overruled(
    folder: Path, tmp_path: Path
) -> None:
    """Sampling and beams in a generation_config.json do not change the transcript."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())

    settings = GenerationConfig.from_pretrained(folder)
    settings.update(do_sample=True, temperature=5.0, num_beams=3)
    settings.save_pretrained(tmp_path)

    recordings = noises(8_000, 20_000)
    assert make(tmp_path).transcribe(recordings) == make(folder).transcribe(recordings)


def test_long_recordings_are_heard_in_equal_windows(folder: Path) -> None:
    """4.4 s in windows of at most 2 s are three equal windows, whose words are joined in order."""
    (recording,) = noises(70_400)
    recognizer = make(folder)

    third = 70_400 / 3
    parts = [recording[int(index * third) : int((index + 1) * third)] for index in range(3)]
    words = recognizer.transcribe(parts)

    assert recognizer.transcribe([recording]) == [
        " ".join(text for text in words if isinstance(text, str))
    ]


def test_less_than_a_tenth_of_a_second_is_missing(folder: Path) -> None:
    """A recording too short to hear is missing with a reason; its neighbors keep their words."""
    short, recording = noises(1_599, 20_000)
    recognizer = make(folder, batch_seconds=10.0)
    first, missing, empty, last = recognizer.transcribe([recording, short, short[:0], recording])

    assert isinstance(missing, Missing)
    assert missing.reason.startswith("audio_too_short: ")
    assert empty == missing
    assert [first, last] == recognizer.transcribe([recording]) * 2
    assert recognizer.transcribe([]) == []


def test_an_english_only_checkpoint_refuses_other_languages(folder: Path) -> None:
    """An English-only checkpoint accepts English as its language and refuses German."""
    recordings = noises(8_000)
    assert make(folder, language="en").transcribe(recordings) == make(folder).transcribe(recordings)
    with pytest.raises(ConfigError, match=r"language: got 'de', but .* knows English only"):
        make(folder, language="de")


def test_a_language_the_checkpoint_does_not_know_is_refused(multilingual: Path) -> None:
    """The error lists the languages the checkpoint knows; one of them is accepted."""
    with pytest.raises(ConfigError, match=r"language: got 'pl', .* knows de, en, fr"):
        make(multilingual, language="pl")
    assert isinstance(make(multilingual, language="de").transcribe(noises(8_000))[0], str)


def test_bfloat16_is_measured_on_the_first_token(folder: Path) -> None:
    """The drift is that of a probability, and the bfloat16 model still transcribes."""
    recognizer = SpeechRecognizer(SpeechRecognitionConfig(checkpoint=str(folder)))
    settled = recognizer.setup(folder, cpu_runtime(precision="bfloat16", max_drift=0.5))

    assert settled.precision == "bfloat16"
    assert settled.drift is not None
    assert 0 < settled.drift < 0.5
    assert isinstance(recognizer.transcribe(noises(8_000))[0], str)


def test_what_is_no_whisper_is_refused(tmp_path: Path) -> None:
    """A classifier is named as what it is, and a Whisper without its processor is refused."""
    folder = write_audio(tmp_path / "hubert", "hubert")
    with pytest.raises(
        ConfigError, match="got a hubert model, expected a whisper-family checkpoint"
    ):
        make(folder)

    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text('{"model_type": "whisper"}')
    with pytest.raises(ConfigError, match="no usable processor"):
        make(empty)
