from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers
from transformers import PreTrainedTokenizerFast, pipeline

from actors.inference.outcomes import Missing
from actors.labeling.labelers.config import LabelerConfig
from actors.labeling.labelers.text import MAX_TOKENS, TextLabeler, longest_text
from shards.config import ConfigError
from tests.actors.inference.runtimes import cpu_runtime
from tests.actors.inference.tiny_checkpoints import SEVEN, WORDS, write_text

texts = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=40).map(" ".join), min_size=1, max_size=8
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def batched(folder: Path) -> TextLabeler:
    return make(folder, tokens=120)


@pytest.fixture(scope="module")
def single(folder: Path) -> TextLabeler:
    return make(folder, tokens=1)


def make(folder: Path, *, tokens: int) -> TextLabeler:
    labeler = TextLabeler(LabelerConfig(checkpoint=str(folder)))
    labeler.setup(folder, cpu_runtime(text_tokens=tokens))
    return labeler


@given(texts)
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_label_does_not_depend_on_its_batchmates(
    batched: TextLabeler, single: TextLabeler, lines: list[str]
) -> None:
    """In padded batches every text gets the distribution that it gets alone."""
    expected = np.stack([single.label([line])[0] for line in lines])
    np.testing.assert_allclose(np.stack(batched.label(lines)), expected, atol=1e-5)


def test_against_the_checkpoints_own_pipeline(folder: Path, batched: TextLabeler) -> None:
    """The distribution equals that of transformers' pipeline, also for a text that is cut."""
    classify = pipeline("text-classification", model=str(folder), device="cpu", top_k=None)
    lines = ["the door is open", "wonderful rain , nobody cares !", " ".join(WORDS * 4)]

    for line, outcome in zip(lines, batched.label(lines), strict=True):
        scores = {
            row["label"]: row["score"]
            for row in classify([line], truncation=True, max_length=24)[0]
        }
        np.testing.assert_allclose(outcome, [scores[SEVEN[index]] for index in range(7)], atol=1e-5)


def test_blank_transcripts_are_missing(batched: TextLabeler) -> None:
    """A blank transcript is missing with a reason, and its neighbors keep their places."""
    first, blank, space, last = batched.label(["rain", "", " \n", "door"])

    assert isinstance(blank, Missing)
    assert blank.reason.startswith("empty_transcript: ")
    assert space == blank

    np.testing.assert_allclose(first, batched.label(["rain"])[0], atol=1e-6)
    np.testing.assert_allclose(last, batched.label(["door"])[0], atol=1e-6)


def test_text_of_which_a_tokenizer_makes_nothing_is_missing(tmp_path: Path) -> None:
    """A text of control characters, which a BERT tokenizer drops, is missing."""
    write_text(tmp_path)
    words = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    words.normalizer = normalizers.BertNormalizer()
    words.save(str(tmp_path / "tokenizer.json"))

    control, spoken = make(tmp_path, tokens=120).label(["\x01\ufffd", "rain"])
    assert isinstance(control, Missing)
    assert isinstance(spoken, np.ndarray)


@given(st.lists(st.text(max_size=30), max_size=5))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_text_has_an_outcome(batched: TextLabeler, lines: list[str]) -> None:
    """Each line of a transcript file gets a distribution or a reason, whatever it holds."""
    outcomes = batched.label(lines)
    assert len(outcomes) == len(lines)
    assert all(isinstance(outcome, Missing) or np.isfinite(outcome).all() for outcome in outcomes)


def test_length_limit_survives_a_tokenizer_that_claims_none() -> None:
    """RoBERTa has 514 positions and reads 512 tokens, whatever limit its tokenizer claims."""
    unset = type("Tokenizer", (), {"model_max_length": int(1e30)})
    assert longest_text(unset, type("Config", (), {"max_position_embeddings": 514})) == 512

    limited = type("Tokenizer", (), {"model_max_length": 128})
    assert longest_text(limited, type("Config", (), {"max_position_embeddings": 514})) == 128

    # XLNet states no positions, and its tokenizer no limit.
    assert longest_text(unset, type("Config", (), {"max_position_embeddings": -1})) == MAX_TOKENS


def test_a_checkpoint_without_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    """A checkpoint is refused for which transformers would make a tokenizer without words."""
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ConfigError, match="no usable tokenizer"):
        make(tmp_path, tokens=10)


def test_another_models_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    """A tokenizer that knows more words than the model is refused before the first rare word."""
    write_text(tmp_path)
    vocabulary = {f"word{number}": number for number in range(500)}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="word1"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="word0", unk_token="word1"
    ).save_pretrained(tmp_path)

    with pytest.raises(ConfigError, match="its tokenizer knows 500 tokens, its model 15"):
        make(tmp_path, tokens=10)
