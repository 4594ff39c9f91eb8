"""What a probe of ratings says beside the figures of classes: several labels, and calibration.

The figures of a probe take the class with most votes as the true one, and the likeliest as the
answer. Here each class is judged by itself, as `emostream evaluate` judges ratings. All answers
count alike, so the figures are pooled over folds and choices of training utterances.

Shapes: N utterances, M answers, C classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from trainers.evaluation.multilabel.document import one_vs_rest_document
from trainers.evaluation.multilabel.rated_target import RatedTarget
from trainers.evaluation.multilabel.units import Units
from trainers.probing.config import ProbeConfig
from trainers.probing.material import Material, Model


def rated_part(
    config: ProbeConfig, material: Material, models: Sequence[Model]
) -> dict[str, dict[str, Any]]:
    """The part `one_vs_rest` of probe.json; empty for a probe of another truth."""
    if material.targets.kind != "ratings":
        return {}

    rows_M = np.concatenate([model.division.test for model in models])
    probs_MC = np.concatenate([model.fitted.probs_NC for model in models])
    target = RatedTarget(material.names)
    answers = target.one_vs_rest(material.targets.take(rows_M), probs_MC)

    speakers_M = material.index.speaker_of_rows[rows_M]
    units = Units(speakers_M, config.seed, utterances=rows_M)
    return {"one_vs_rest": one_vs_rest_document(answers, units, f1_over="present")}
