"""Small documents beside data: the options something was made with, and summaries; each appears in
one step.
"""

import json
import os
from typing import Any

import yaml

from shards.config_values import to_mapping
from shards.storage.files import atomic_write, read_bytes

MAX_DOCUMENT_BYTES = 1 << 30


def write_config(url: str | os.PathLike[str], config: Any) -> None:
    """Save options as YAML, as `--config` reads them."""
    _write(url, yaml.safe_dump(to_mapping(config), sort_keys=False))


def write_json(url: str | os.PathLike[str], value: Any) -> None:
    """Save `value` as JSON; NaN and infinity, which JSON has not, are a ValueError."""
    _write(url, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(url: str | os.PathLike[str]) -> Any:
    """What `write_json` saved. Raises ValueError for what is no JSON, OSError when unreadable."""
    return json.loads(read_bytes(os.fspath(url), max_bytes=MAX_DOCUMENT_BYTES))


def _write(url: str | os.PathLike[str], text: str) -> None:
    with atomic_write(os.fspath(url)) as stream:
        stream.write(text.encode())
