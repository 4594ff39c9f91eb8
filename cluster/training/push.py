"""`emostream push`: publish an exported model on the Hugging Face Hub, with its card.

Only files that open the model are uploaded, by name: a folder may hold anything else, and what has
been published cannot be called back. The checkpoints of a run, with the optimizer's state and the
names of the speakers' files, never leave. `upload_folder` of the hub's own library was left out: it
takes all that is not excluded.
"""

import fnmatch
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import huggingface_hub
import yaml
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from cluster.exit_status import ExitStatus
from shards.config import ConfigError, option

# Of the library's own client, which is httpx or httpx2, as its release has it.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
CARD_NAME = "README.md"
# The encoder that finds proxies for unknown speakers, where the model has speaker embeddings.
PUBLISHED_FOLDERS = ("", "original")
PUBLISHED_FILES = (
    "config.json",
    "generation_config.json",
    "recognizer.json",
    "*processor_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
NO_LICENSE_TEXT = "## License\n\nNot stated."
MIB = 2**20


class HubError(Exception):
    """The Hub refused or did not answer; the text says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushConfig:
    """Options of `emostream push`."""

    run: str = option(
        help="Folder of a run, or an exported model in it: RUN/best or RUN/last.", positional=True
    )
    repo: str = option(
        help="Repository on the Hub, OWNER/NAME; it is made if it does not exist.", positional=True
    )
    model: Literal["best", "last"] = option(
        default="best", help="Which model to publish, where RUN is the folder of a run."
    )
    private: bool = option(
        default=False,
        help="Make the repository private, if it is made now: only its owners see it.",
    )
    revision: str | None = option(
        default=None,
        help="Branch to upload to, which is made if it does not exist; without it, main.",
    )
    message: str = option(default="Upload a model", help="Message of the commit.")


@dataclass(frozen=True, slots=True)
class Upload:
    """An export: the files to publish, by their names in the repository, and what stays here."""

    folder: Path
    names: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """The size of all files to publish."""
        return sum((self.folder / name).stat().st_size for name in self.names)


def run_push(config: PushConfig) -> int:
    """Run `emostream push`: say what is uploaded, upload it, return the exit status."""
    upload = find_upload(config)
    sys.stdout.write(f"{upload.folder} to {config.repo} at {config.revision or 'main'}:\n")
    for name in upload.names:
        size = (upload.folder / name).stat().st_size / MIB
        sys.stdout.write(f"  {name}  {size:.2f} MiB\n")
    if upload.left_out:
        sys.stdout.write(f"  stays here: {', '.join(upload.left_out)}\n")

    try:
        url = push(config, upload)
    except HubError as error:
        sys.stderr.write(f"emostream push: {error}\n")
        return ExitStatus.UNFINISHED

    sys.stdout.write(
        f"{len(upload.names)} files, {upload.num_bytes / MIB:.2f} MiB, published: {url}\n"
    )
    return ExitStatus.DONE


def find_upload(config: PushConfig) -> Upload:
    """The files of an export that may be published.

    Raises ConfigError for a folder that is no export, and for a card that is not fit to publish.
    """
    folder = _export_folder(config)
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in found]
    published = tuple(name for name in names if _is_published(name))

    _require_card(folder)
    return Upload(folder, published, tuple(name for name in names if name not in published))


def push(config: PushConfig, upload: Upload) -> str:
    """Upload in one commit, and return its URL.

    Raises HubError when the Hub refuses or does not answer. Nothing has changed there then, but
    that an empty repository or a branch may have been made.
    """
    api = HfApi()
    with _hub_problems(config), warnings.catch_warnings():
        # Of the card; what is wrong with it is an error of its own.
        warnings.simplefilter("ignore")
        api.create_repo(config.repo, private=config.private or None, exist_ok=True)
        if config.revision is not None:
            api.create_branch(config.repo, branch=config.revision, exist_ok=True)

        commit = api.create_commit(
            config.repo,
            [CommitOperationAdd(name, str(upload.folder / name)) for name in upload.names],
            commit_message=config.message,
            revision=config.revision,
        )
    return str(commit.commit_url)


def _export_folder(config: PushConfig) -> Path:
    # Why here: it imports torch, which the help text does not need.
    from trainers.models.recognizer import is_recognizer

    for folder in (Path(config.run), Path(config.run) / config.model):
        has_weights = any(folder.glob("model*.safetensors"))
        if (folder / "config.json").is_file() and has_weights and is_recognizer(str(folder)):
            return folder

    raise ConfigError(
        f"{config.run}: holds no exported recognizer, nor does {config.model}/ in it; expected the "
        "folder of a run that `emostream train` has finished, or RUN/best"
    )


def _is_published(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    if name == CARD_NAME:
        return True
    return folder in PUBLISHED_FOLDERS and any(
        fnmatch.fnmatchcase(file, pattern) for pattern in PUBLISHED_FILES
    )


def _require_card(folder: Path) -> None:
    """Raise ConfigError unless the card says what it must say in public."""
    path = folder / CARD_NAME
    if not path.is_file():
        raise ConfigError(
            f"{folder}: has no model card, {CARD_NAME}; write one, or train with this release, "
            "which writes it"
        )

    text = path.read_text(encoding="utf-8")
    front_matter = _front_matter(path, text)
    if not front_matter.get("license"):
        raise ConfigError(
            f"{path}: states no license; find out what the corpus and the encoder allow, and write "
            "a line such as `license: cc-by-nc-4.0` between the two lines `---` at its top"
        )
    if NO_LICENSE_TEXT in text:
        raise ConfigError(
            f"{path}: has a license at its top, but still says under `License` that none is "
            "stated; write there where the license comes from"
        )


def _front_matter(path: Path, text: str) -> dict[str, object]:
    """The YAML at the top of a card."""
    parts = text.split("---\n", 2)
    try:
        values = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: what stands between the lines `---` is no YAML: {error}") from (
            error
        )
    return values if isinstance(values, dict) else {}


@contextmanager
def _hub_problems(config: PushConfig) -> Iterator[None]:
    """Turn what the Hub and the network say into HubError, and a wrong name into ConfigError."""
    try:
        yield
    except HFValidationError as error:
        raise ConfigError(f"{config.repo}: {error}; expected OWNER/NAME") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise HubError(
            f"{config.repo}: not found as a repository of models that your token may write; if it "
            f"is one of data sets or a space, choose another name ({_said(error)})"
        ) from error
    except HfHubHTTPError as error:
        raise HubError(f"{config.repo}: {_refusal(error)}") from error
    except (HTTPError, OSError) as error:
        raise HubError(_no_answer(error)) from error
    except (RuntimeError, ValueError) as error:
        # An upload that failed says so by a RuntimeError whose cause is the Hub or the network.
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise HubError(f"{config.repo}: {_refusal(cause)}") from error
        if isinstance(cause, HTTPError):
            raise HubError(_no_answer(cause)) from error
        raise HubError(f"{config.repo}: the Hub did not take it: {error}") from error


def _no_answer(error: Exception) -> str:
    endpoint = huggingface_hub.constants.ENDPOINT
    return (
        f"{endpoint} did not answer ({type(error).__name__}: {error}); check the network, and run "
        "the same command again"
    )


def _refusal(error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return (
            "the Hub knows no such token (401); log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may write"
        )
    if status == 403:
        return f"your token may not write there (403): {_said(error)}"
    return f"the Hub refused ({status}): {_said(error)}"


def _said(error: HfHubHTTPError) -> str:
    """What the server itself said, without the library's advice."""
    return error.server_message or str(error).splitlines()[0]
