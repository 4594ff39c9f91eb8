"""The options of `emostream select`.

They are kept apart from the rule, which does not need to know how an option is checked.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shards.config import ConfigError, option, require_at_least, require_positive
from shards.emotions import EMOTIONS
from shards.selection.agreement import Distance
from shards.selection.where import Condition
from shards.splits import SPLITS
from shards.storage.urls import absolute
from shards.tables.predictions import MODALITIES

PUBLISHED_CLASSES = ("neutral", "anger", "happiness", "surprise")
PUBLISHED_KL_THRESHOLD = 1.0
MATCH_KL = "match-kl"


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectConfig:
    """Options of `emostream select`."""

    predictions: str = option(help="Folder of prediction tables, as `emostream label` writes it.")
    out: str = option(help="Folder for selection.parquet, rejected.parquet and summary.json.")
    teachers: tuple[str, ...] = option(
        help="Teachers: one, two or three of audio, vision and text. Two are compared by "
        "KL(first || second), so text,vision and text,audio are the published directions. Of "
        "three, every pair must agree; one alone is always believed."
    )
    distance: Distance = option(
        default="kl",
        help="Distance between two teachers, in nats. kl: the published Kullback-Leibler "
        "divergence; js: the Jensen-Shannon divergence.",
    )
    threshold: float | str = option(
        default=PUBLISHED_KL_THRESHOLD,
        help="Largest distance that counts as agreement, in nats. match-kl (with js only): the "
        "threshold at which as many utterances agree as with KL <= 1.",
    )
    min_confidence: float | None = option(
        default=None,
        help="Smallest probability of the label in the mean of the teachers' distributions, such "
        "as 0.6. It works for one teacher too, which has nobody to agree with.",
    )
    max_entropy: float | None = option(
        default=None,
        help="Largest entropy of the mean of the teachers' distributions, in nats: 0 is certain, "
        "1.95 knows nothing.",
    )
    where: tuple[str, ...] = option(
        default=(),
        help="Conditions that an utterance must meet, such as 'duration_seconds>=1' "
        "'language=en|de' 'demographics.age<30'. The fields are duration_seconds, speaker, "
        "emotion, transcript, and all fields of the samples' json.",
    )
    classes: tuple[str, ...] = option(
        default=PUBLISHED_CLASSES,
        help="Emotions to keep. A label is the likeliest of all seven emotions; an utterance "
        "with another label is rejected.",
    )
    keep_rates: dict[str, float | str] = option(
        default_factory=dict,
        help="Share to keep of each class, as published: "
        "neutral=10000/150123,happiness=10000/61386. The other utterances of a class are rejected "
        "by chance, but no speaker falls below --min-per-speaker. A class without a share is kept "
        "whole.",
    )
    balance_to: int | None = option(
        default=None,
        help="Number of utterances that larger classes are reduced to, in place of --keep-rates: "
        "the rate of such a class is this number over the class's count. More remain where "
        "speakers are near --min-per-speaker.",
    )
    min_per_speaker: int = option(
        default=50,
        help="Smallest number of kept utterances of a speaker; a speaker with fewer is rejected.",
    )
    split_fractions: tuple[float, ...] = option(
        default=(0.7, 0.1, 0.2),
        help="Shares of the speakers for train, validation and test; they sum to 1. No speaker is "
        "in two splits.",
    )
    seed: int = option(default=0, help="Seed of the down-sampling and of the splits.")

    def __post_init__(self) -> None:
        _require_known("--teachers", self.teachers, MODALITIES)
        _require_known("--classes", self.classes, EMOTIONS)
        _require_known("--keep-rates", tuple(self.keep_rates), self.classes, at_least=0)
        self._check_threshold()
        self._check_confidence()
        for condition in self.where:
            Condition.parse(condition)

        # Called for its errors: a share that is not a number is refused here.
        self.rates()
        if self.keep_rates and self.balance_to is not None:
            raise ConfigError("--keep-rates and --balance-to: give one of them, not both")
        require_positive(self, "--balance-to")
        require_at_least(self, 0, "--min-per-speaker")

        # The comparisons are written with `not`, so that NaN is refused too.
        fractions = self.split_fractions
        if (
            len(fractions) != len(SPLITS)
            or not min(fractions) >= 0
            or not abs(sum(fractions) - 1) <= 1e-6
        ):
            raise ConfigError(
                f"--split-fractions: got {fractions}, expected three shares of at least 0 that "
                "sum to 1, such as 0.7,0.1,0.2"
            )

        if absolute(self.out).rstrip("/") == absolute(self.predictions).rstrip("/"):
            raise ConfigError(
                f"--out: got the predictions folder {self.out}, expected another folder; the "
                "predictions folder holds prediction tables only"
            )

    def rates(self) -> dict[str, float]:
        """`keep_rates` as numbers between 0 and 1."""
        return {name: _rate(name, share) for name, share in self.keep_rates.items()}

    def _check_threshold(self) -> None:
        is_default = self.distance == "kl" and self.threshold == PUBLISHED_KL_THRESHOLD
        if len(self.teachers) == 1 and not is_default:
            raise ConfigError(
                f"--distance, --threshold: got them with one teacher ({self.teachers[0]}), which "
                "has no other to agree with; give --min-confidence or --max-entropy, or a second "
                "teacher"
            )

        if isinstance(self.threshold, str):
            if self.threshold != MATCH_KL:
                raise ConfigError(
                    f"--threshold: got {self.threshold!r}, expected a number or {MATCH_KL}"
                )
            if self.distance != "js":
                raise ConfigError(
                    f"--threshold {MATCH_KL}: got --distance {self.distance}, expected js; add "
                    "--distance js, or give a number"
                )

        elif not 0 < self.threshold < math.inf:
            raise ConfigError(
                f"--threshold: got {self.threshold}, expected a finite number above 0"
            )

    def _check_confidence(self) -> None:
        if self.min_confidence is not None and not 0 < self.min_confidence <= 1:
            raise ConfigError(
                f"--min-confidence: got {self.min_confidence}, expected a probability above 0 and "
                "at most 1"
            )
        if self.max_entropy is not None and not 0 <= self.max_entropy < math.inf:
            raise ConfigError(
                f"--max-entropy: got {self.max_entropy}, expected nats, 0 or more, such as 1.2"
            )


def _require_known(
    flag: str, names: Sequence[str], known: Sequence[str], *, at_least: int = 1
) -> None:
    wrong = [name for name in names if name not in known]

    if wrong or len(set(names)) != len(names) or len(names) < at_least:
        raise ConfigError(
            f"{flag}: got {','.join(names) or 'nothing'}, expected names from this list, each at "
            f"most once: {', '.join(known)}"
        )


def _rate(name: str, share: float | str) -> float:
    numerator, _, denominator = str(share).partition("/")
    try:
        value = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        value = math.nan

    if not 0 <= value <= 1:
        expected = "a share between 0 and 1 such as 0.07 or 10000/150123"
        raise ConfigError(f"--keep-rates {name}: got {share!r}, expected {expected}")

    return value
