"""The selection rule, against a plain loop of the published code.

Properties hold whatever the predictions are.
"""

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from shards.config import ConfigError
from shards.config_values import from_mapping, to_mapping
from shards.emotions import EMOTIONS
from shards.selection.rule import (
    SPLITS,
    Candidates,
    SelectConfig,
    Selection,
    choose,
    labels_of,
    uniform_numbers,
)
from tests.shards.selection.inputs import draw_candidates, one_hot, permuted

PUBLISHED_RATES = {"neutral": "10000/150123", "happiness": "10000/61386"}


def configure(**options: Any) -> SelectConfig:
    settings = {
        "predictions": "in",
        "out": "out",
        "teachers": ("text", "vision"),
        "min_per_speaker": 5,
    }
    return SelectConfig(**(settings | options))


def choices(options: st.DrawFn) -> SelectConfig:
    """Any sensible configuration."""
    teachers = options(st.permutations(["audio", "vision", "text"]))[: options(st.integers(1, 3))]
    agreement: dict[str, Any] = {}
    if len(teachers) > 1:
        distance = options(st.sampled_from(["kl", "js"]))
        matched = distance == "js" and options(st.booleans())
        threshold = "match-kl" if matched else options(st.sampled_from([0.05, 0.3, 1.0, 3.0]))
        agreement = {"distance": distance, "threshold": threshold}
    balance = options(
        st.sampled_from(
            [{}, {"balance_to": 15}, {"keep_rates": {"neutral": 0.3, "happiness": "1/2"}}]
        )
    )

    return configure(
        teachers=tuple(teachers),
        **agreement,
        min_confidence=options(st.sampled_from([None, 0.4])),
        max_entropy=options(st.sampled_from([None, 1.5])),
        min_per_speaker=options(st.sampled_from([0, 1, 5, 12])),
        seed=options(st.integers(0, 3)),
        **balance,
    )


configurations = st.composite(choices)()


def agreeing(emotions: list[str], speakers: list[int]) -> Candidates:
    """Utterances whose teachers all name the given emotion, in one shard."""
    num = len(emotions)

    probs = np.stack([one_hot(emotion) for emotion in emotions]).astype(np.float64)
    return Candidates(
        key=np.array([f"k{row}" for row in range(num)], dtype=object),
        shard=np.zeros(num, dtype=np.int64),
        shards=("a.tar",),
        offset=np.arange(num) * 512,
        speaker=np.array(speakers),
        speakers=tuple(f"s{number}" for number in range(max(speakers) + 1)),
        error=np.full(num, None, dtype=object),
        teachers=dict.fromkeys(("audio", "vision", "text"), probs),
        truth=np.full(num, -1),
        seconds=np.ones(num),
    )


def reasons(selection: Selection) -> Counter[str]:
    return Counter(selection.reason[~selection.kept])


def down_sample_as_published(
    candidates: Candidates,
    rows: list[int],
    label: list[str],
    chance: dict[int, float],
    minimum: int,
) -> set[int]:
    """The published loop over utterances in file order.

    It drops utterances of majority classes by chance, down to a minimum for each speaker.
    """
    remaining = Counter(int(candidates.speaker[row]) for row in rows)
    rate = {"neutral": 0.2, "happiness": 0.5}
    kept = set(rows)

    for row in sorted(
        rows, key=lambda row: (candidates.shards[candidates.shard[row]], candidates.offset[row])
    ):
        speaker = int(candidates.speaker[row])
        if (
            label[row] in rate
            and chance[row] >= rate[label[row]]
            and remaining[speaker] - 1 >= minimum
        ):
            kept.discard(row)
            remaining[speaker] -= 1

    return {row for row in kept if remaining[int(candidates.speaker[row])] >= minimum}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), configurations)
def test_every_candidate_is_decided_once(seed: int, config: SelectConfig) -> None:
    """Kept and rejected make up all rows.

    Each kept row has a label of a wanted class, a speaker and a split.
    """
    candidates = draw_candidates(seed)
    selection = choose(candidates, config)

    assert all(
        (reason is None) == kept
        for reason, kept in zip(selection.reason, selection.kept, strict=True)
    )

    wanted = {EMOTIONS.index(name) for name in config.classes}
    assert set(selection.label[selection.kept]) <= wanted
    assert (candidates.speaker[selection.kept] >= 0).all()
    assert set(selection.split[selection.kept]) <= set(SPLITS)
    assert all(split is None for split in selection.split[~selection.kept])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), configurations, st.randoms(use_true_random=False))
def test_order_does_not_matter(seed: int, config: SelectConfig, random: Any) -> None:
    """Shuffled utterances get the same decisions, whichever worker finished first."""
    candidates = draw_candidates(seed)
    order = np.array(random.sample(range(len(candidates)), len(candidates)))
    straight, shuffled = choose(candidates, config), choose(permuted(candidates, order), config)

    for name in ("reason", "kept", "label", "split"):
        np.testing.assert_array_equal(getattr(straight, name)[order], getattr(shuffled, name))
    assert straight.threshold == shuffled.threshold
    assert straight.rates == shuffled.rates


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 50), configurations)
def test_no_speaker_is_in_two_splits_or_below_the_minimum(seed: int, config: SelectConfig) -> None:
    """Splits are disjoint in speakers, and every kept speaker has enough utterances."""
    candidates = draw_candidates(seed)
    selection = choose(candidates, config)
    speakers = candidates.speaker[selection.kept]
    assert len(set(zip(speakers, selection.split[selection.kept], strict=True))) == len(
        set(speakers)
    )
    assert all(number >= config.min_per_speaker for number in Counter(speakers.tolist()).values())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.sampled_from(["kl", "js"]), st.floats(0.01, 3), st.floats(1, 3))
def test_retention_grows_with_the_threshold(
    seed: int, distance: str, threshold: float, factor: float
) -> None:
    """A larger threshold keeps all that a smaller one keeps."""
    candidates = draw_candidates(seed)
    options = {"distance": distance, "min_per_speaker": 0}
    strict = choose(candidates, configure(threshold=threshold, **options))
    loose = choose(candidates, configure(threshold=threshold * factor, **options))
    assert not (strict.kept & ~loose.kept).any()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100), st.integers(0, 5), st.sampled_from([0, 1, 10, 20]))
def test_down_sampling_is_the_published_loop(seed: int, draw: int, minimum: int) -> None:
    """Vectorized down-sampling drops exactly what the published loop drops on the same chances."""
    candidates = draw_candidates(seed, num_speakers=4)
    plain = choose(candidates, configure(min_per_speaker=0, seed=draw))

    rows = np.flatnonzero(plain.kept).tolist()
    # The names that chance is hashed from: shard, offset and key.
    names = [
        f"{candidates.shards[candidates.shard[r]]}\0{candidates.offset[r]}\0{candidates.key[r]}"
        for r in rows
    ]
    chance = dict(zip(rows, uniform_numbers(draw, "down-sample", names), strict=True))
    label = [EMOTIONS[number] for number in plain.label]
    expected = down_sample_as_published(candidates, rows, label, chance, minimum)

    rates = {"neutral": 0.2, "happiness": "1/2"}
    selection = choose(candidates, configure(min_per_speaker=minimum, seed=draw, keep_rates=rates))
    assert set(np.flatnonzero(selection.kept).tolist()) == expected


def test_dropping_stops_at_the_minimum() -> None:
    """Of 80 neutral utterances 50 remain when all are unlucky; a speaker with 50 loses none."""
    candidates = agreeing(["neutral"] * 130, [0] * 80 + [1] * 50)
    selection = choose(candidates, configure(min_per_speaker=50, keep_rates={"neutral": 0.0}))
    assert reasons(selection) == {"down_sampled": 30}
    assert selection.kept[30:].all()  # in file order


def test_published_rates_are_met_and_the_minority_is_untouched() -> None:
    """The published rates keep their share of speakers who are far above the minimum.

    Anger is kept whole.
    """
    emotions = ["neutral"] * 150_123 + ["happiness"] * 61_386 + ["anger"] * 500
    candidates = agreeing(emotions, [row % 3 for row in range(len(emotions))])
    selection = choose(candidates, configure(min_per_speaker=50, keep_rates=PUBLISHED_RATES))

    counts = Counter(EMOTIONS[number] for number in selection.label[selection.kept])
    assert counts["neutral"] == pytest.approx(10_000, abs=400)  # four standard deviations
    assert counts["happiness"] == pytest.approx(10_000, abs=400)
    assert counts["anger"] == 500

    derived = choose(candidates, configure(min_per_speaker=50, balance_to=10_000))
    assert derived.rates == {"neutral": 10_000 / 150_123, "happiness": 10_000 / 61_386}
    np.testing.assert_array_equal(derived.kept, selection.kept)


def test_another_seed_draws_other_utterances() -> None:
    """Chance follows the seed, and the same seed repeats it."""
    candidates = draw_candidates(0)
    kept = [
        choose(
            candidates, configure(keep_rates={"neutral": 0.5}, min_per_speaker=0, seed=seed)
        ).kept
        for seed in (0, 1, 0)
    ]
    assert (kept[0] != kept[1]).any()
    assert (kept[0] == kept[2]).all()


def test_chance_is_uniform() -> None:
    """Hashed names are spread evenly over [0, 1), by the Kolmogorov-Smirnov test."""
    numbers = uniform_numbers(0, "down-sample", [f"a.tar\0{row}\0k{row}" for row in range(20_000)])
    assert kstest(numbers, "uniform").pvalue > 0.001
    assert 0 <= numbers.min() <= numbers.max() < 1


def test_the_label_is_of_the_mean_distribution() -> None:
    """The mean of the distributions, and not the more confident teacher, decides the label."""
    candidates = agreeing(["neutral"], [0])
    text = np.array([[0.5, 0.4, 0.1, 0, 0, 0, 0]])
    vision = np.array([[0.3, 0.6, 0.1, 0, 0, 0, 0]])
    candidates = dataclasses.replace(candidates, teachers={"text": text, "vision": vision})
    selection = choose(candidates, configure(min_per_speaker=0))
    assert EMOTIONS[selection.label[0]] == "anger"
    np.testing.assert_allclose(selection.probs[0], [0.4, 0.5, 0.1, 0, 0, 0, 0])


def test_classes_are_restricted_after_averaging() -> None:
    """An utterance most likely sad is left out, though anger would win among the wanted classes."""
    candidates = agreeing(["sadness", "anger"], [0, 0])
    selection = choose(candidates, configure(min_per_speaker=0))
    assert selection.reason.tolist() == ["class_excluded", None]
    wider = choose(candidates, configure(min_per_speaker=0, classes=("anger", "sadness")))
    assert wider.kept.all()


def test_reasons_by_hand() -> None:
    """Each kind of rejection has its reason; the first in the published order is given."""
    candidates = agreeing(["anger"] * 8, [0, 0, 0, 0, 0, 0, -1, 1])
    text = candidates.teachers["text"].copy()
    text[0] = np.nan
    text[1] = np.nan
    text[2] = one_hot("surprise")
    text[3, 0] = np.nan
    text[4] *= 3

    error = candidates.error.copy()
    error[1] = "corrupt_audio: flac"
    error[5] = "no_face: nobody asked for it"
    candidates = dataclasses.replace(
        candidates, teachers={**candidates.teachers, "text": text}, error=error
    )

    selection = choose(candidates, configure(min_per_speaker=1))
    assert selection.reason.tolist() == [
        "missing_prediction: teacher 'text' gives no prediction",
        "corrupt_audio: flac",
        "disagreement",
        "invalid_prediction: teacher 'text' gives numbers that are not a distribution",
        "invalid_prediction: teacher 'text' gives numbers that are not a distribution",
        None,
        "no_speaker",
        None,
    ]

    alone = choose(candidates, configure(min_per_speaker=2))
    assert alone.reason[7] == "speaker_below_minimum"


def test_an_infinite_divergence_is_disagreement() -> None:
    """A class that only the first teacher believes in keeps an utterance out at any threshold.

    A class that only the second believes in does not.
    """
    candidates = agreeing(["neutral"], [0])
    certain, torn = np.eye(7)[:1], np.array([[0.5, 0.5, 0, 0, 0, 0, 0]])
    candidates = dataclasses.replace(candidates, teachers={"text": torn, "vision": certain})
    wide = configure(min_per_speaker=0, threshold=1e9)
    assert choose(candidates, wide).reason.tolist() == ["disagreement"]
    assert choose(candidates, dataclasses.replace(wide, teachers=("vision", "text"))).kept.all()


def test_one_teacher_is_taken_at_its_word() -> None:
    """With one teacher nothing disagrees, there is no distance and no threshold."""
    candidates = draw_candidates(0)
    selection = choose(
        candidates, configure(teachers=("audio",), min_per_speaker=0, classes=EMOTIONS)
    )
    assert selection.threshold is None
    assert np.isnan(selection.distance).all()
    has_both = ~np.isnan(candidates.teachers["audio"]).any(axis=1) & (candidates.speaker >= 0)
    np.testing.assert_array_equal(selection.kept, has_both)


def test_the_threshold_itself_agrees() -> None:
    """An utterance exactly at the threshold is kept."""
    candidates = draw_candidates(0)
    distance = np.nanmedian(choose(candidates, configure()).distance[:299])
    selection = choose(candidates, configure(threshold=float(distance)))
    assert (selection.distance == distance).any()
    assert not (selection.reason[selection.distance == distance] == "disagreement").any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 50), st.permutations(["audio", "vision", "text"]), st.integers(2, 3))
def test_js_threshold_matches_the_retention_of_kl(seed: int, names: list[str], number: int) -> None:
    """`match-kl` finds the JS threshold that lets as many utterances agree as KL <= 1 does."""
    candidates, teachers = draw_candidates(seed), tuple(names[:number])
    kl = choose(candidates, configure(min_per_speaker=0, teachers=teachers))
    js = choose(
        candidates,
        configure(min_per_speaker=0, teachers=teachers, distance="js", threshold="match-kl"),
    )
    assert (kl.distance <= 1.0).sum() == (js.distance <= js.threshold).sum()
    assert 0 < (js.threshold or 0) < np.log(2)


@pytest.mark.parametrize(
    ("num", "expected"),
    [(10, [7, 1, 2]), (100, [70, 10, 20]), (1480, [1036, 148, 296]), (1, [1, 0, 0])],
)
def test_splits_have_the_nominal_shares(num: int, expected: list[int]) -> None:
    """Speakers are divided 70/10/20, to the nearest speaker."""
    candidates = agreeing(["anger"] * num, list(range(num)))
    selection = choose(candidates, configure(min_per_speaker=1))
    assert [int((selection.split == name).sum()) for name in SPLITS] == expected


def test_the_split_of_speakers_follows_the_seed() -> None:
    """Another seed draws other speakers for the test set."""
    candidates = agreeing(["anger"] * 100, list(range(100)))
    splits = [choose(candidates, configure(min_per_speaker=1, seed=seed)).split for seed in (0, 1)]
    assert (splits[0] != splits[1]).any()


def test_nothing_is_a_selection_too() -> None:
    """No utterances at all give an empty selection."""
    empty = permuted(draw_candidates(0), np.empty(0, dtype=np.int64))
    for options in (
        {},
        {"balance_to": 5},
        {"distance": "js", "threshold": "match-kl"},
        {"teachers": ("text",)},
    ):
        selection = choose(empty, configure(**options))
        assert len(selection.kept) == len(selection.reason) == 0


def test_labels_of_missing_predictions() -> None:
    """A missing prediction has no label; of equal probabilities the first emotion wins."""
    probs = np.stack(
        [np.full(7, np.nan), np.full(7, 1 / 7), one_hot("surprise").astype(np.float64)]
    )
    assert labels_of(probs).tolist() == [-1, 0, 6]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"teachers": ()},
            "--teachers: got nothing, expected names from this list, each at most once: audio, "
            "vision, text",
        ),
        ({"teachers": ("text", "text")}, "--teachers: got text,text"),
        ({"teachers": ("smell",)}, "--teachers: got smell"),
        ({"classes": ("joy",)}, "--classes: got joy"),
        ({"threshold": "match-kl"}, "--threshold match-kl: got --distance kl, expected js"),
        ({"threshold": "loose"}, "--threshold: got 'loose', expected a number or match-kl"),
        ({"threshold": 0.0}, "--threshold: got 0.0, expected a finite number above 0"),
        ({"threshold": float("nan")}, "--threshold: got nan"),
        ({"threshold": float("inf")}, "--threshold: got inf"),
        ({"keep_rates": {"sadness": 0.5}}, "--keep-rates: got sadness"),
        ({"keep_rates": {"neutral": "2/1"}}, "--keep-rates neutral: got '2/1', expected a share"),
        ({"keep_rates": {"neutral": "1/0"}}, "--keep-rates neutral: got '1/0'"),
        ({"keep_rates": {"neutral": "1/2/3"}}, "--keep-rates neutral: got '1/2/3'"),
        (
            {"keep_rates": {"neutral": 0.5}, "balance_to": 5},
            "--keep-rates and --balance-to: give one",
        ),
        ({"balance_to": 0}, "--balance-to: got 0"),
        ({"min_per_speaker": -1}, "--min-per-speaker: got -1"),
        ({"split_fractions": (0.5, 0.5)}, "--split-fractions: got"),
        ({"split_fractions": (0.5, 0.6, -0.1)}, "--split-fractions: got"),
        ({"split_fractions": (float("nan"), 0.5, 0.5)}, "--split-fractions: got"),
        ({"out": "in/"}, "--out: got the predictions folder"),
        ({"out": "./x/../in"}, "--out: got the predictions folder"),
    ],
)
def test_unusable_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Each error names the option, what was got and what was expected."""
    with pytest.raises(ConfigError) as caught:
        configure(**options)
    assert message in str(caught.value)


def test_options_as_the_command_line_and_yaml_give_them() -> None:
    """Text from flags and values from YAML become the same configuration.

    The configuration is the same after it was saved.
    """
    plain = {"predictions": "in", "out": "out"}
    flags = plain | {
        "teachers": "text,vision",
        "keep_rates": "neutral=10000/150123,happiness=0.163",
        "threshold": "0.5",
        "split_fractions": "0.8,0.1,0.1",
    }

    values = plain | {
        "teachers": ["text", "vision"],
        "keep_rates": {"neutral": "10000/150123", "happiness": 0.163},
        "threshold": 0.5,
        "split_fractions": [0.8, 0.1, 0.1],
    }

    config = from_mapping(SelectConfig, flags)
    assert (
        config
        == from_mapping(SelectConfig, values)
        == from_mapping(SelectConfig, to_mapping(config))
    )
    assert config.rates() == {"neutral": 10_000 / 150_123, "happiness": 0.163}


def test_dropping_follows_the_files_and_not_the_rows() -> None:
    """Dropping goes shard by shard, and by offset within a shard.

    Of four unlucky utterances the first in the files goes, whatever row it is.
    """
    candidates = dataclasses.replace(
        agreeing(["neutral"] * 4, [0] * 4),
        shards=("a.tar", "b.tar"),
        shard=np.asarray([1, 0, 1, 0]),
        offset=np.asarray([0, 2048, 1024, 1024]),
    )
    selection = choose(candidates, configure(min_per_speaker=3, keep_rates={"neutral": 0.0}))
    assert selection.kept.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("total", "reason"),
    [(1.004, None), (0.996, None), (1.02, "invalid_prediction"), (0.98, "invalid_prediction")],
)
def test_a_distribution_may_round_as_bfloat16_does(total: float, reason: str | None) -> None:
    """A sum 0.4 % off is a softmax in bfloat16; a sum 2 % off is no distribution."""
    candidates = agreeing(["anger"], [0])
    teachers = {**candidates.teachers, "text": candidates.teachers["text"] * total}
    found = choose(
        dataclasses.replace(candidates, teachers=teachers), configure(min_per_speaker=1)
    ).reason[0]
    assert (found and found.partition(":")[0]) == reason


def test_a_negative_probability_is_no_distribution() -> None:
    """A negative probability is refused even where the sum is 1."""
    candidates = agreeing(["anger"], [0])
    probs = candidates.teachers["text"].copy()
    probs[0, :2] += [-0.5, 0.5]
    teachers = {**candidates.teachers, "text": probs}
    found = choose(dataclasses.replace(candidates, teachers=teachers), configure(min_per_speaker=1))
    assert found.reason[0].startswith("invalid_prediction")


def test_only_what_may_be_kept_counts_toward_a_rate() -> None:
    """Utterances that cannot be kept do not count toward a rate.

    Of 40 neutral utterances ten have no speaker and ten disagree; balanced to ten, half of the rest
    is kept.
    """
    candidates = agreeing(["neutral"] * 40, [0] * 30 + [-1] * 10)
    text = candidates.teachers["text"].copy()
    text[:10] = np.roll(text[:10], 1, axis=1)
    teachers = {**candidates.teachers, "text": text}

    selection = choose(
        dataclasses.replace(candidates, teachers=teachers),
        configure(min_per_speaker=0, balance_to=10),
    )

    assert reasons(selection)["disagreement"] == reasons(selection)["no_speaker"] == 10
    assert selection.rates == {"neutral": 0.5}
