"""What probe.json holds: where the inputs come from, the figures, and how each head was chosen."""

from collections.abc import Sequence
from typing import Any

from shards.config_values import to_mapping
from shards.errors import count_reasons
from trainers.probing.config import ProbeConfig
from trainers.probing.conversations import ConversationInputs
from trainers.probing.inputs import Origin
from trainers.probing.material import Material, Model
from trainers.probing.rated import rated_part
from trainers.probing.results import Answers, confusion, fold_figures, summarize_answers


def probe_document(
    config: ProbeConfig, material: Material, models: Sequence[Model], answers: Answers
) -> dict[str, Any]:
    """What probe.json holds."""
    index = material.index
    return {
        "name": config.name or _default_name(config, material.origin),
        "config": to_mapping(config),
        "encoder": material.origin.encoder,
        "fingerprint": material.origin.fingerprint,
        "input": config.view,
        "corpus_digest": index.digest,
        "truth": material.truth,
        "names": list(material.names),
        "selected_on": config.select_on,
        "shares_speakers": _shares_speakers(material),
        "num_parameters": models[0].fitted.num_parameters,
        "num_utterances": len(index),
        "num_speakers": len(index.speakers),
        "num_without_label": material.num_without_label,
        "conversation": _conversation(material, models),
        "rejected": count_reasons(material.reasons),
        "figures": summarize_answers(answers, seed=config.seed),
        "confusion": confusion(answers),
        **rated_part(config, material, models),
        "models": [_model_document(config, model) for model in models],
        "folds": [
            {"name": division.name, **fold_figures(answers, fold)}
            for fold, division in enumerate(material.divisions)
        ],
    }


def _model_document(config: ProbeConfig, model: Model) -> dict[str, Any]:
    return {
        "fold": model.division.name,
        "subset_seed": config.subset_seed[model.subset],
        "num_train": len(model.division.train),
        "num_validation": len(model.division.validation),
        "num_test": len(model.division.test),
        "best_round": model.fitted.best_round,
        "validation_accuracy": round(model.fitted.validation_accuracy, 6),
        "layer_weights": [round(weight, 6) for weight in model.fitted.layer_weights],
    }


def _conversation(material: Material, models: Sequence[Model]) -> dict[str, int] | None:
    """How much past there was to predict from; None where nothing is predicted from the past."""
    inputs = material.inputs
    if not isinstance(inputs, ConversationInputs):
        return None
    return {
        "history": inputs.history,
        "num_short": inputs.num_short,
        "num_apart": sum(model.division.num_apart for model in models if model.subset == 0),
    }


def _shares_speakers(material: Material) -> bool:
    """Whether a tested speaker is among the training speakers of the same model."""
    speakers = material.index.speaker_of_rows
    return any(
        bool(set(speakers[division.train]) & set(speakers[division.test]))
        for division in material.divisions
    )


def _default_name(config: ProbeConfig, origin: Origin) -> str:
    encoder = origin.encoder.rstrip("/").rpartition("/")[2]
    parts = [encoder, config.view, config.head]
    if config.history is not None:
        parts.append(f"{config.history} turns before")
    if config.layers != "last":
        parts.insert(1, config.layers)
    return ", ".join(dict.fromkeys(parts))
