"""What two recognizers must share if one is to start from what the other has learned."""

from collections.abc import Mapping

from trainers.models.recognizer_config import RecognizerConfig

_LACKING = object()


def personalization(config: RecognizerConfig) -> dict[str, object]:
    """What two recognizers must share if one is to use the other's P or speaker embeddings.

    The weight of the commitment is a matter of the loss.
    """
    described = {
        "model.fusion": config.fusion,
        "model.standardize_frames": config.standardize_frames,
        "the speakers with an embedding": config.speakers,
        "the place of these embeddings": config.speaker_fusion if config.speakers else None,
    }
    # config.json keeps the spelling it began with.
    spelled = {"normalise_codes": "normalize_codes"}
    options = {
        f"model.{spelled.get(name, name)}": value
        for name, value in config.extractor.items()
        if name != "commitment"
    }
    return described | options


def answers_of(config: RecognizerConfig) -> dict[str, object]:
    """What two recognizers must share if one is to use the other's head."""
    return {
        "the values" if config.is_values else "the classes": config.names,
        "model.head": config.head,
    }


def differences(mine: Mapping[str, object], theirs: Mapping[str, object]) -> list[str]:
    """What differs, for people.

    What only one of the two has is told if nothing else differs: without P, all its options lack.
    """
    differ = [
        name
        for name in dict.fromkeys([*theirs, *mine])
        if theirs.get(name, _LACKING) != mine.get(name, _LACKING)
    ]
    shared = [name for name in differ if name in theirs and name in mine]

    return [
        f"{name}: {_shown(theirs.get(name))} there, {_shown(mine.get(name))} here"
        for name in shared or differ
    ]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return f"{len(value)} ({', '.join(map(str, value[:8]))}{', ...' if len(value) > 8 else ''})"
    return "none" if value is None else str(value)
