"""The model card of an adapted encoder: what it has learned, and what its license follows from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainers.models.research_only import research_only_text

CARD_NAME = "README.md"


def write_encoder_card(
    folder: Path, encoder: Mapping[str, Any], objectives: Mapping[str, Sequence[str]]
) -> None:
    """Write the card into the folder of the export.

    `encoder` is its configuration, and `objectives` are the names of the values of each objective.
    """
    learned = "\n".join(f"- {name}: {len(values)} values" for name, values in objectives.items())
    license_text = (
        "Not stated. The weights follow from the licenses of the encoder that training started "
        "from, of the corpus, and of what made the targets. "
    )
    parts = [
        "---\nlibrary_name: transformers\ntags:\n- emotion-recognition\n- emostream\n---",
        "# Speech encoder adapted to emotion",
        "Adapted with emostream's recipe `multimodal`. Fine-tune a recognizer from it with "
        "`emostream train finetune --set encoder.checkpoint=FOLDER`.",
        f"## Training\n\nIt learned to predict, from the sound alone:\n\n{learned}",
        f"## License\n\n{(license_text + research_only_text(encoder)).strip()}",
    ]
    (folder / CARD_NAME).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
