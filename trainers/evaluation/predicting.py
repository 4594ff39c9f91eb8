"""Runs a trained recognizer over the utterances of a split, one set at a time.

A set holds utterances of one speaker. The model's part P, if it has one, makes the set's prefixes
from the set's support (SetPeER). There are three kinds of support. `same` is the paper's protocol:
the utterances of a set are each other's support. The other two are controls. `disjoint` takes other
utterances of the same speaker, and the gain by personalization must remain. `wrong` takes
utterances of another speaker, and the gain must be lost.

A row is the number of an utterance in the index; a position is its place in a batch. A batch holds
one set. With `disjoint` and `wrong`, the support follows behind the set:

    positions 0 to num_predicted - 1              the set: heard and predicted
    positions num_predicted to len(batch) - 1     its support: only heard

Shapes: N utterances, C classes or values, D width, B sets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.config import ConfigError
from shards.config_values import from_mapping
from shards.loading.batch_plan import PlannedBatch, evaluation_batches
from shards.loading.index import CorpusIndex
from shards.loading.inputs import InputName
from shards.loading.known_speakers import training_utterances
from shards.loading.loader import Batch, BatchReader, read_once
from shards.loading.subsets import subset
from shards.loading.targets import Stimulus, TargetConfig, Targets, read_targets
from trainers.evaluation.target import Target
from trainers.evaluation.targets import TARGETS
from trainers.models.parts.device import default_device
from trainers.models.recognizer import EmotionRecognizer, Recognition
from trainers.models.trained import Trained, require_trained
from trainers.models.two_stage.recognizer import TwoStageRecognizer
from trainers.preparation.proxy_speakers import assign_speakers

Recognizer = EmotionRecognizer | TwoStageRecognizer
Support = Literal["same", "disjoint", "wrong"]
VANILLA_SET_SIZE = 32


@dataclass(frozen=True, slots=True)
class Predicted:
    """What a model answered to the utterances of an index, in the order of the index.

    `scores` [N, C] are probabilities or values, `features` [N, D] are pooled over frames, and
    `sets` [N] is the number of each utterance's set. `set_embeddings` [B, D] holds what the model
    made of each set (P's embeddings, averaged over layers); None for a model without sets.
    `codes` are the entries of P's codebook that any layer chose at least once; None without a
    codebook. `answered_from` [N] names the inputs that each utterance had, such as "sound+face" or
    "face"; None for a model that takes one input.
    """

    scores: NDArray[np.float32]
    features: NDArray[np.float32]
    sets: NDArray[np.int64]
    set_embeddings: NDArray[np.float32] | None
    codes: NDArray[np.int64] | None
    answered_from: NDArray[np.object_] | None = None


def load_recognizer(folder: str) -> Trained:
    """A model that `emostream train` exported, on this process's GPU if it has one.

    Raises ConfigError when `folder` holds no recognizer, or one that cannot be loaded.
    """
    trained = require_trained(folder)
    trained.model.eval().to(default_device())
    return trained


def target_answered(
    model: Recognizer,
    f1_over: Literal["present", "classes"] | None = None,
    stimulus: Stimulus | None = None,
) -> Target:
    """The target whose classes or values the model answers with.

    `f1_over` says which classes macro-F1 is over, and `stimulus` by which ratings a model of
    ratings is measured; None: as in the model's training.
    """
    saved = model.config.trained_on.get("target")
    target = TARGETS[model.config.target_kind](
        model.config.names, None if saved is None else from_mapping(TargetConfig, saved)
    )
    learned = replace(
        target.learned,
        f1_over=f1_over or target.learned.f1_over,
        stimulus=stimulus or target.learned.stimulus,
    )
    return TARGETS[target.kind](target.names, learned)


@torch.inference_mode()
def predict(
    trained: Trained,
    index: CorpusIndex,
    *,
    set_size: int = 8,
    support: Support = "same",
    seed: int = 0,
) -> Predicted:
    """Recognize every utterance of `index`, in sets of utterances of one speaker.

    A set has at most `set_size` utterances; 0: all of its speaker. A model without sets recognizes
    each utterance by itself and takes no notice of `set_size`. Raises ConfigError when there is no
    support of the kind asked for.
    """
    model = trained.model
    personalized = model.hears_sets
    if support != "same" and not personalized:
        raise ConfigError(
            f"--support {support}: this model is not personalized, so it uses no support; expected "
            "--support same, or a model of setpeer, speaker-normalized or standardize_frames"
        )

    device, target = next(model.parameters()).device, target_answered(model)
    planned = plan_sets(
        index.rows_by_speaker(), set_size if personalized else VANILLA_SET_SIZE, support, seed
    )
    reader = BatchReader(index, model.input_names, clip=model.clip_format)
    numbers = (
        {}
        if trained.speakers is None
        else assign_speakers(trained.speakers, index, model.config.modality, model.clip_format)
    )

    # `read_once` yields the batches in the order of the plan, so the n-th batch is the n-th set.
    gathered = _Gathered(len(index), model, target)
    batches = read_once(reader, [plan for plan, _ in planned])
    for number, (batch, (plan, num_predicted)) in enumerate(zip(batches, planned, strict=True)):
        found = _recognize(model, batch.to(device), num_predicted, numbers)
        gathered.add(number, plan.rows[:num_predicted], found, batch)

    return gathered.predicted()


class _Gathered:
    """The answers so far, each at the row of its utterance.

    The sets contain every row of the index exactly once, so every element is written in the end.
    """

    def __init__(self, num_rows: int, model: Recognizer, target: Target) -> None:
        self._input_names = model.input_names
        self._answered_from = np.empty(num_rows, dtype=object)
        self._target = target
        self._scores = np.empty((num_rows, len(model.config.names)), dtype=np.float32)
        self._features = np.empty((num_rows, model.feature_width), dtype=np.float32)
        self._sets = np.empty(num_rows, dtype=np.int64)
        self._embeddings: list[NDArray[np.float32]] = []
        self._codes: list[Tensor] = []

    def add(self, number: int, rows: NDArray[np.int64], found: Recognition, batch: Batch) -> None:
        """Take the answers to set `number`, whose utterances are `rows`, in `batch`."""
        # The model answers to the whole batch, by position. Only the first answers are kept, those
        # to the set. The answers to the support behind it are dropped: these utterances are
        # predicted in sets of their own.
        self._scores[rows] = self._target.answers(found.scores_NC)[: len(rows)].cpu().numpy()
        self._features[rows] = found.pooled_ND[: len(rows)].float().cpu().numpy()
        self._sets[rows] = number
        self._answered_from[rows] = _inputs_there(batch, self._input_names)[: len(rows)]

        # To the model, the whole batch is one set, so this adds one embedding, that of set `number`
        # (B is 1).
        if found.speakers_BD is not None:
            self._embeddings.append(found.speakers_BD.float().cpu().numpy())
        self._codes += [torch.unique(chosen).cpu() for chosen in found.codes]

    def predicted(self) -> Predicted:
        """Everything, when every set has been added."""
        return Predicted(
            scores=self._scores,
            features=self._features,
            sets=self._sets,
            set_embeddings=np.concatenate(self._embeddings) if self._embeddings else None,
            codes=torch.unique(torch.cat(self._codes)).numpy() if self._codes else None,
            answered_from=self._answered_from if len(self._input_names) > 1 else None,
        )


def _inputs_there(batch: Batch, names: Sequence[InputName]) -> list[str]:
    """The inputs that each utterance of the batch has [N], such as "sound+face"."""
    is_there = [(batch.inputs[name].lengths > 0).tolist() for name in names]
    return [
        "+".join(name for name, there in zip(names, row, strict=True) if there)
        for row in zip(*is_there, strict=True)
    ]


def _recognize(
    model: Recognizer, batch: Batch, num_predicted: int, numbers: Mapping[str, int]
) -> Recognition:
    """Recognize one batch: a set of `num_predicted` utterances, and behind it the set's support.

    `numbers` has the number of each speaker's embedding; it is empty for a model without
    embeddings.
    """
    if isinstance(model, TwoStageRecognizer):
        answers = model(batch.inputs)
        return Recognition(answers.log_probs_NC, answers.pooled, None, (), {})

    heard = batch.inputs[model.input_name]
    places = torch.arange(len(batch), device=batch.rows.device)

    # The set and its support have the same set number, because P makes the prefixes of a set only
    # from utterances of that set. `source` says which of them: the support alone. With support
    # `same` the batch ends with the set, and None lets P use all of it.
    sets = torch.zeros_like(places) if model.hears_sets else batch.sets
    source = places >= num_predicted if num_predicted < len(batch) else None

    speakers = None
    if numbers:
        speakers = torch.tensor(
            [numbers[speaker] for speaker in batch.speakers], device=places.device
        )

    found: Recognition = model(heard.values, heard.lengths, sets, source, speakers)
    return found


def plan_sets(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], set_size: int, support: Support, seed: int
) -> list[tuple[PlannedBatch, int]]:
    """Plan sets of at most `set_size` utterances of one speaker (0: all), each with its support.

    Returns for each set its batch, and how many rows of the batch are the set; the remaining rows
    are the support. For example, ([4, 7, 2, 9], 2) predicts the rows 4 and 7, with the rows 2 and 9
    as their support. Every row of `rows_by_speaker` is in exactly one set.

    Raises ConfigError when there is no support of the kind asked for.
    """
    if support == "disjoint":
        sets = _halved_where_needed(rows_by_speaker, set_size, seed)
    else:
        sets = evaluation_batches(rows_by_speaker, set_size, seed=seed)
    return _with_support(sets, rows_by_speaker, support, seed)


def can_support(index: CorpusIndex) -> NDArray[np.bool_]:
    """Whether each utterance [N] can have disjoint support: its speaker has another utterance."""
    numbers = {speaker: len(rows) for speaker, rows in index.rows_by_speaker().items()}

    return np.asarray([numbers[speaker] > 1 for speaker in index.table["speaker"].to_pylist()])


def _halved_where_needed(
    rows_by_speaker: Mapping[str, NDArray[np.int64]], set_size: int, seed: int
) -> list[PlannedBatch]:
    """Sets of at most half of a speaker's utterances, so that others remain for their support.

    Raises ConfigError for a speaker with one utterance.
    """
    sets: list[PlannedBatch] = []
    for place, (speaker, rows) in enumerate(rows_by_speaker.items()):
        if len(rows) < 2:
            raise ConfigError(
                f"--support disjoint: speaker {speaker!r} has one utterance, expected at least "
                "two, so that another one can be its support"
            )

        # `set_size` 0 asks for all utterances, and half of them is the most that a set may take.
        # Each speaker is planned alone, as speaker number 0 of its plan, so the seed differs by
        # speaker: two speakers with equal numbers of utterances would otherwise be shuffled alike.
        half = len(rows) // 2
        sets += evaluation_batches({speaker: rows}, min(set_size or half, half), seed=seed + place)

    return sets


def _with_support(
    sets: Sequence[PlannedBatch],
    rows_by_speaker: Mapping[str, NDArray[np.int64]],
    support: Support,
    seed: int,
) -> list[tuple[PlannedBatch, int]]:
    if support == "same":
        return [(batch, len(batch.rows)) for batch in sets]
    if support == "wrong" and len(rows_by_speaker) < 2:
        raise ConfigError("--support wrong: the split has one speaker, expected at least two")

    # Speakers are numbered by their position in `rows_by_speaker`. `all_rows` leads from a
    # speaker's number to the rows, and `speaker_of` from a row back to the number.
    all_rows = list(rows_by_speaker.values())
    speaker_of = {row: place for place, rows in enumerate(all_rows) for row in rows.tolist()}

    supported = []
    for batch in sets:
        # All rows of a set have one speaker, so the first row tells whose set it is. The smallest
        # row names the set, because a row is in one set only: the draw for a set then depends on
        # nothing that was drawn for the sets before it.
        own = speaker_of[int(batch.rows[0])]
        rng = np.random.default_rng([seed, own, int(batch.rows.min())])

        # Going on from `own` by 1 to S - 1 speakers, round the circle of all S, reaches every other
        # speaker with equal probability and never `own`. For example, with S = 3 and own = 2 it
        # goes on by 1 or 2, to speaker 0 or 1.
        if support == "wrong":
            pool = all_rows[(own + 1 + int(rng.integers(len(all_rows) - 1))) % len(all_rows)]
        else:
            pool = np.setdiff1d(all_rows[own], batch.rows)

        # The support is as large as the set, or smaller when the pool has fewer utterances.
        chosen = rng.choice(pool, size=min(len(batch.rows), len(pool)), replace=False)
        rows = np.concatenate([batch.rows, chosen])
        supported.append((PlannedBatch(rows, np.zeros(len(rows), dtype=np.int64)), len(batch.rows)))

    return supported


def seconds_heard(model: Recognizer, split: str) -> float:
    """How many seconds of each speaker of `split` the model was trained on.

    Training of the models that this model started from counts too.
    """
    # A smaller number of seconds takes some of the utterances that a larger number takes. So the
    # largest number covers all that the chain of models has heard, and nothing has to be added up.
    seconds, trained_on = 0.0, model.config.trained_on
    while trained_on:
        if trained_on.get("known_split") == split:
            seconds = max(seconds, trained_on["known_seconds"])
        trained_on = trained_on.get("start", {})

    return seconds


def utterances_learned(model: Recognizer, corpus: CorpusIndex) -> CorpusIndex:
    """The utterances of the split `train` that the model was trained on.

    They are those of all speakers, or of some when the run chose among speakers or utterances.
    """
    trained_on = model.config.trained_on
    number, seconds = trained_on.get("num_speakers"), trained_on.get("known_seconds", 0.0)

    # With known seconds, `training_utterances` adds utterances of another split, which are left
    # out again here: only the choice of training speakers matters.
    train = training_utterances(corpus, number, seconds, trained_on.get("known_split", "")).split(
        "train"
    )
    if trained_on.get("num_utterances") is None:
        return train

    labels = labels_learned(model, train)
    known = np.flatnonzero(labels.known)
    chosen, _ = subset(
        train.take(known),
        labels.take(known),
        trained_on["num_utterances"],
        trained_on["subset_seed"],
    )
    return chosen


def labels_learned(model: Recognizer, train: CorpusIndex) -> Targets:
    """The labels that the model learned for the training utterances `train`.

    PLDC may use only these labels, and not the true emotions, which no deployment has.
    """
    target = target_answered(model)

    return read_targets(train, target.learned, target.names)
