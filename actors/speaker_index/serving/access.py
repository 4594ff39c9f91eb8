"""Who may do what, and how often.

A token file has a line for every client: `read NAME TOKEN` or `write NAME TOKEN`; who may write may
read. It is read again when it changes, so that tokens are replaced without a restart. Tokens are
compared by their digests, all of them each time and in constant time: how long a refusal takes says
nothing about them.
"""

import collections
import hashlib
import hmac
import logging
import os
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.speaker_index.errors import NotAuthenticatedError, NotPermittedError, OverloadedError
from shards.config import ConfigError

log = logging.getLogger(__name__)

Role = Literal["read", "write"]
ROLES: tuple[Role, ...] = ("read", "write")
MIN_TOKEN_CHARACTERS = 16
LOOK_SECONDS = 2.0
MAX_CLIENTS = 10_000
SCHEME = "bearer "


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks: the name that goes with the token, or the address where there are no tokens."""

    name: str
    role: Role


class Tokens:
    """The clients of a token file."""

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = Path(path), clock
        self._looked_at = clock()
        self._version = self._file_version()
        self._clients = read_tokens(self._path)

    def client(self, metadata: Iterable[tuple[str, str | bytes]]) -> Client:
        """Whose token the call carries. Raises NotAuthenticatedError without one that is known."""
        self._look_again()
        given = [value for name, value in metadata if name == "authorization"]
        if (
            len(given) != 1
            or not isinstance(given[0], str)
            or not given[0].lower().startswith(SCHEME)
        ):
            raise NotAuthenticatedError(
                "got no bearer token; send the metadata `authorization: Bearer TOKEN`"
            )
        digest = _digest(given[0][len(SCHEME) :].strip())
        found = None
        for known, client in self._clients:
            if hmac.compare_digest(known, digest):
                found = client
        if found is None:
            raise NotAuthenticatedError("the bearer token is not known")
        return found

    def _look_again(self) -> None:
        """Read the file again when it has changed; a file that cannot be used changes nothing."""
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        try:
            version = self._file_version()
            if version != self._version:
                self._clients, self._version = read_tokens(self._path), version
                log.info("%s has changed: %d clients", self._path, len(self._clients))
        except (OSError, ValueError) as error:  # ConfigError is one, and what is no UTF-8 another
            log.warning("the changed token file is not used: %s", error)

    def _file_version(self) -> tuple[int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size


class RateLimit:
    """So many requests a second of each client, with as many at once; 0 is no limit."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second, self._clock = per_second, clock
        self._buckets: collections.OrderedDict[str, tuple[float, float]] = collections.OrderedDict()

    def take(self, client: str) -> None:
        """Count one request. Raises OverloadedError for one too many."""
        if not self._per_second:
            return
        now, most = self._clock(), max(1.0, self._per_second)
        left, since = self._buckets.pop(client, (most, now))
        left = min(most, left + (now - since) * self._per_second)
        self._buckets[client] = (max(left - 1.0, 0.0) if left >= 1.0 else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if left < 1.0:
            raise OverloadedError(
                f"more than {self._per_second:g} requests a second; try again later"
            )


def require_role(client: Client, role: Role) -> None:
    """Raise NotPermittedError when the client may not do this."""
    if ROLES.index(client.role) < ROLES.index(role):
        raise NotPermittedError(f"this token may {client.role}, and not {role}")


def read_tokens(path: Path) -> list[tuple[bytes, Client]]:
    """Digests of tokens and whose they are. Raises ConfigError, without the token, for a line that
    is none.
    """
    status = path.stat()
    if status.st_mode & (stat.S_IROTH | stat.S_IWOTH) and os.name == "posix":
        raise ConfigError(f"--tokens {path}: others may read or write it; chmod 600 {path}")
    found: dict[bytes, Client] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 3 or words[0] not in ROLES or len(words[2]) < MIN_TOKEN_CHARACTERS:
            raise ConfigError(
                f"--tokens {path}: line {number}: expected `read NAME TOKEN` or `write NAME "
                f"TOKEN`, the token of at least {MIN_TOKEN_CHARACTERS} characters"
            )
        digest = _digest(words[2])
        if digest in found:
            raise ConfigError(
                f"--tokens {path}: line {number}: {words[1]} has the token of {found[digest].name}"
            )
        found[digest] = Client(words[1], "read" if words[0] == "read" else "write")
    if not found:
        raise ConfigError(f"--tokens {path}: holds no token; nobody could ask anything")
    return list(found.items())


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
