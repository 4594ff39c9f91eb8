"""Which panel it is: the digest of all that can change a label, and each model's weights."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.inference.checkpoints import identify
from actors.labeling.config import PanelConfig
from shards.config_values import to_mapping

DIGEST_VERSION = 2  # raise it when the code labels differently from the same settings


@dataclass(frozen=True, slots=True, kw_only=True)
class PanelIdentity:
    """Which panel this is: panels with equal digests label equally.

    `labelers` says for each model where its weights came from.
    """

    digest: str
    labelers: Mapping[str, Mapping[str, str]]


def panel_identity(config: PanelConfig) -> PanelIdentity:
    """Hash the settings and the weight files; loads no model and opens no network connection.

    A local folder counts by its contents and may move; a hub checkpoint counts by name and commit.
    Precision counts as configured: what `auto` settles on may differ between machines, within
    `max_drift`.
    """
    models = {name: identify(checkpoint) for name, checkpoint in config.checkpoints().items()}
    settings = to_mapping(config)
    del settings["batching"]
    # Panels that name no languages keep the digest, and so the tables, of earlier releases.
    if settings["text"] is not None and not settings["text"]["languages"]:
        del settings["text"]["languages"]
    _keep_former_digests(settings["objectives"])
    for name, model in models.items():
        place = settings if name in settings else settings["objectives"]
        place[name] = {**place[name], "checkpoint": None, "revision": None, **model}

    detector = config.media.faces.detector
    if detector is not None and Path(detector).is_file():
        settings["media"]["faces"]["detector"] = hashlib.sha256(
            Path(detector).read_bytes()
        ).hexdigest()

    canonical = json.dumps([DIGEST_VERSION, settings], sort_keys=True)
    labelers = {
        name: {"checkpoint": checkpoint.checkpoint, **models[name]}
        for name, checkpoint in config.checkpoints().items()
    }

    return PanelIdentity(digest=hashlib.sha256(canonical.encode()).hexdigest(), labelers=labelers)


def _keep_former_digests(objectives: dict[str, Any]) -> None:
    """Write the objectives as earlier releases did, where no later one is asked for."""
    for name in ("acoustics", "face_features"):
        if objectives[name] is None:
            del objectives[name]
    objectives["egemaps"] = False
