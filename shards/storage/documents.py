"""Small documents beside data: summaries, and the options that the data was made with.

Each document is written in one step, so that no reader sees half of it.
"""

import json
import os
from typing import Any

import yaml

from shards.config_values import to_mapping
from shards.storage.files import atomic_write, read_bytes

MAX_DOCUMENT_BYTES = 1 << 30


def write_config(url: str | os.PathLike[str], config: Any) -> None:
    """Save the options in `config` as YAML, the form that `--config` reads."""
    _write(url, yaml.safe_dump(to_mapping(config), sort_keys=False))


def write_json(url: str | os.PathLike[str], value: Any) -> None:
    """Save `value` as JSON. Raises ValueError for NaN and infinity, which JSON does not have."""
    _write(url, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(url: str | os.PathLike[str]) -> Any:
    """Read a JSON document.

    Raises ValueError when the document is not JSON, and OSError when it cannot be read.
    """
    return json.loads(read_bytes(os.fspath(url), max_bytes=MAX_DOCUMENT_BYTES))


def _write(url: str | os.PathLike[str], text: str) -> None:
    with atomic_write(os.fspath(url)) as stream:
        stream.write(text.encode())
