"""How much a corpus has to gain from knowing who speaks, without any network: statistics standardised by speaker.

Logistic regression on means and deviations of cepstra over each utterance; plain, with each speaker's utterances
standardised by that speaker's own mean and deviation, which needs no label, and by another speaker's.

Shapes: N utterances, X statistics.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from shards.batch_plan import PlannedBatch
from shards.corpus_index import CorpusIndex, read_index
from shards.loader import BatchReader, read_once
from shards.targets import no_targets
from trainers.functionals import functionals_of

READ_UTTERANCES = 64
REGULARISATION, MAX_ITERATIONS = 0.1, 1000


def normalised_accuracies(shards: str) -> dict[str, float]:
    """A-ACC in percent on the split test, standardised by nobody, by the speaker and by a wrong one."""
    index = read_index(shards)
    train, test = (_measure(index.split(name)) for name in ("train", "test"))
    speakers = {name: _texts(index.split(name), "speaker") for name in ("train", "test")}
    labels = {name: _texts(index.split(name), "label") for name in ("train", "test")}
    found = {}
    for by in ("nobody", "speaker"):
        regression = LogisticRegression(C=REGULARISATION, max_iter=MAX_ITERATIONS)
        model = make_pipeline(StandardScaler(), regression).fit(
            _standardised(train, speakers["train"], by), labels["train"]
        )
        for at_test in (by,) if by == "nobody" else ("speaker", "wrong"):
            predicted = model.predict(_standardised(test, speakers["test"], at_test))
            found[at_test] = _over_speakers(predicted == labels["test"], speakers["test"])
    return found


def _measure(index: CorpusIndex) -> NDArray[np.float32]:
    """Statistics [N, X] of the utterances."""
    measure = functionals_of("cepstra", "audio")
    parts = np.split(np.arange(len(index)), range(READ_UTTERANCES, len(index), READ_UTTERANCES))
    planned = [PlannedBatch(rows, np.zeros_like(rows)) for rows in parts]
    batches = read_once(BatchReader(index, no_targets(index), "audio"), planned)
    return np.stack(
        [
            measure(sound[:length])
            for batch in batches
            for sound, length in zip(batch.inputs, batch.lengths.tolist(), strict=True)
        ]
    )


def _standardised(statistics: NDArray[np.float32], speakers: NDArray[np.str_], by: str) -> NDArray[np.float32]:
    if by == "nobody":
        return statistics
    standardised, names = np.empty_like(statistics), np.unique(speakers)
    for place, name in enumerate(names):
        source = statistics[speakers == (name if by == "speaker" else names[place - 1])]
        mine = statistics[speakers == name]
        standardised[speakers == name] = (mine - source.mean(axis=0)) / (source.std(axis=0) + 1e-6)
    return standardised


def _over_speakers(right: NDArray[np.bool_], speakers: NDArray[np.str_]) -> float:
    return 100 * float(np.mean([right[speakers == name].mean() for name in np.unique(speakers)]))


def _texts(index: CorpusIndex, column: str) -> NDArray[np.str_]:
    return np.asarray(index.table[column].to_pylist(), dtype=np.str_)
