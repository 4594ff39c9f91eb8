"""Hidden states that `emostream features` has stored, in place of those that an encoder computes.

A folder of features does not say which weights made it in a way that an encoder in memory could be
compared by, so one utterance is computed and compared: features of other weights, layers or sound
would train a model that the exported encoder does not fit.

Shapes: T frames, S states, F numbers of a state.
"""

import numpy as np
import torch

from shards.config import ConfigError
from shards.loading.batch_plan import PlannedBatch
from shards.loading.index import CorpusIndex
from shards.loading.loader import BatchReader
from shards.tables.feature_store import FeatureStore
from trainers.models.encoders.layerwise import LayerwiseEncoder
from trainers.models.two_stage.recognizer import TwoStageRecognizer

# Of the size of a state. float16 is off by at most a two thousandth of each number.
MOST_DIFFERENCE = 0.01


def require_same_states(
    recognizer: TwoStageRecognizer, features: FeatureStore, index: CorpusIndex, folder: str
) -> None:
    """Raise ConfigError unless the features are all the states of the model's only encoder.

    The shortest of the utterances `index` that has features is computed and compared.
    """
    where = f"model.features_folder {folder}"
    if len(recognizer.encoders) != 1:
        raise ConfigError(
            f"{where}: the branches have {len(recognizer.encoders)} encoders, expected one, whose "
            "states can be stored; give model.features=computed"
        )

    encoder = recognizer.encoders[0]
    assert isinstance(encoder, LayerwiseEncoder)  # noqa: S101 (they are nothing else)
    expected = list(range(len(encoder.layers) + 1))
    if list(features.info.layers) != expected:
        raise ConfigError(
            f"{where}: holds the layers {', '.join(map(str, features.info.layers))}, expected 0 to "
            f"{expected[-1]}; run `emostream features --layers all`"
        )

    stored_TSF, computed_TSF = _both(encoder, features, index, where)
    differs = stored_TSF.shape != computed_TSF.shape
    if not differs:
        sizes_S = np.square(computed_TSF).mean(axis=(0, 2)) ** 0.5
        errors_S = np.square(stored_TSF - computed_TSF).mean(axis=(0, 2)) ** 0.5
        differs = bool((errors_S > MOST_DIFFERENCE * sizes_S).any())
    if differs:
        raise ConfigError(
            f"{where}: holds features of {features.info.encoder}, which differ from what this "
            "run's encoder computes; store them again with the encoder that is given here, or give "
            "model.features=computed"
        )


@torch.inference_mode()
def _both(
    encoder: LayerwiseEncoder, features: FeatureStore, index: CorpusIndex, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The states [T, S, F] of one utterance, as stored and as computed."""
    places = zip(index.table["shard"].to_pylist(), index.table["offset"].to_pylist(), strict=True)
    found = [features.find(*place) for place in places]
    lengths = [0 if one is None else one.num_frames for one in found]
    if not any(lengths):
        raise ConfigError(f"{where}: holds features of no training utterance")

    shortest = min(np.flatnonzero(lengths).tolist(), key=lengths.__getitem__)
    reader = BatchReader(index, ["sound", "states"], features=features)
    batch = reader[0, PlannedBatch(np.asarray([shortest]), np.zeros(1, dtype=np.int64))]

    sound, stored = batch.inputs["sound"], batch.inputs["states"]
    was_training = encoder.training
    states, _ = encoder.eval().hidden_states(sound.values, sound.lengths)
    encoder.train(was_training)
    return stored.values[0].numpy(), torch.stack(states, dim=2)[0].numpy()
