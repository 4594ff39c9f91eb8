"""The model card of an exported recognizer: `README.md`, as hubs of models show it.

It states what the run knows. What it cannot know, such as the license, it asks for by name: a card
that guesses a license would be believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainers.models.audio_classification import is_standard_recognizer
from trainers.models.recognizer_config import RecognizerConfig
from trainers.models.research_only import research_only_text
from trainers.models.standard import is_known_to_transformers

CARD_NAME = "README.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What a run tells of the recognizer that it exports.

    `encoder` is the checkpoint that training started from, as `encoder.checkpoint` names it; None
    for an encoder that was trained from nothing. `figures` are those of the validation split; None
    when the run has not validated since it was resumed.
    """

    recipe: str
    encoder: str | None
    revision: str | None
    corpus_digest: str
    num_utterances: int
    num_speakers: int
    num_validation_utterances: int
    num_validation_speakers: int
    figures: Mapping[str, float] | None


def write_card(folder: Path, config: RecognizerConfig, facts: CardFacts) -> None:
    """Write the card into the folder of the export."""
    parts = [_front_matter(config), _head(config, facts), _how_to_open(config), _training(facts)]
    parts += [_figures(facts), _license(config, facts)]
    (folder / CARD_NAME).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _front_matter(config: RecognizerConfig) -> str:
    lines = ["---", "library_name: transformers", "tags:", "- emotion-recognition", "- emostream"]
    if config.modality == "audio":
        lines.append("pipeline_tag: audio-classification")
    return "\n".join([*lines, "---"])


def _head(config: RecognizerConfig, facts: CardFacts) -> str:
    what = "values" if config.is_values else "classes"
    hears = {"audio": "16 kHz speech", "face": "face features", "video": "video"}[config.modality]

    return (
        f"# Emotion from {hears}\n\n"
        f"Trained with emostream's recipe `{facts.recipe}`. It takes {hears}, and answers with "
        f"these {what}: {', '.join(config.names)}."
    )


def _how_to_open(config: RecognizerConfig) -> str:
    if is_standard_recognizer(config) and is_known_to_transformers(config.encoder):
        code = (
            "from transformers import pipeline\n\n"
            'classify = pipeline("audio-classification", model=FOLDER)\n'
            'print(classify("speech.wav", top_k=None))'
        )
        why = "transformers opens it without emostream, and gives the same probabilities or values."
        return _use(why, code)

    if config.modality == "audio":
        code = (
            "from transformers import AutoModelForAudioClassification\n\n"
            "from trainers.models.audio_classification import register_recognizers\n\n"
            "register_recognizers()\n"
            "model = AutoModelForAudioClassification.from_pretrained(FOLDER)"
        )
        why = (
            "transformers alone cannot express this model. With emostream installed, it opens once "
            "its models are registered."
        )
        if config.extractor or config.speaker_prior is not None or config.standardize_frames:
            why += " The utterances of a batch must be of one speaker, whom the model listens to."
        return _use(why, code)

    return (
        "## Use\n\ntransformers alone cannot express this model; `emostream evaluate --checkpoint "
        "FOLDER` opens it."
    )


def _use(why: str, code: str) -> str:
    command = "emostream predict --checkpoint FOLDER --audio FILE... --out predictions.csv"
    return f"## Use\n\n{why}\n\n```python\n{code}\n```\n\n```\n{command}\n```"


def _training(facts: CardFacts) -> str:
    encoder = "an encoder that was trained from nothing"
    if facts.encoder is not None:
        # The path of a folder tells others nothing, and more about a machine than it should.
        local = Path(facts.encoder).exists()
        name = Path(facts.encoder).name if local else facts.encoder
        encoder = f"`{name}`" + (f" at revision `{facts.revision}`" if facts.revision else "")

    return (
        "## Training\n\n"
        f"- Started from {encoder}.\n"
        f"- Learned from {facts.num_utterances} utterances of {facts.num_speakers} speakers.\n"
        f"- Digest of the corpus: `{facts.corpus_digest}`."
    )


def _figures(facts: CardFacts) -> str:
    if facts.figures is None:
        return "## Figures\n\nNot measured since the run was resumed; see `train.json` of the run."

    rows = [f"| {name} | {value:.4f} |" for name, value in facts.figures.items()]
    return "\n".join(
        [
            f"## Figures\n\nOn the validation split: {facts.num_validation_utterances} utterances "
            f"of {facts.num_validation_speakers} speakers. The best checkpoint was chosen by these "
            "figures, so expect lower ones on a test split.\n",
            "| figure | value |",
            "|---|---|",
            *rows,
        ]
    )


def _license(config: RecognizerConfig, facts: CardFacts) -> str:
    of_encoder = "" if facts.encoder is None else " of the encoder and"
    return (
        "## License\n\nNot stated. The weights follow from the licenses"
        f"{of_encoder} of the corpus; find out what they allow, and state the license here, before "
        f"this model is published. {research_only_text(config.encoder)}".rstrip()
    )
