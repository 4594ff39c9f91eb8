"""A stand-in for the Hugging Face Hub: the few endpoints that an upload uses, on this machine.

It speaks what huggingface_hub sends (repositories, branches, commits as JSON lines, git-LFS), and
keeps what it receives.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_of_the_test"


@dataclass
class StandInHub:
    """What was received: the files of each (repository, branch), and the requests that made it."""

    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)
    data_sets: set[str] = field(default_factory=set)  # repositories of another type
    refuses_blobs: bool = False

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        parts = path.strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {}
        if method == "PUT":
            return self._store(parts[-1], body)
        if path.endswith("/info/lfs/objects/batch"):
            return 200, {"objects": [self._slot(one) for one in json.loads(body)["objects"]]}

        repo, what, revision = "/".join(parts[2:4]), parts[4], parts[5]
        if repo in self.data_sets:
            return 404, {"error": "Repository not found"}
        if what == "branch":
            self.files.setdefault((repo, revision), {})
            return 200, {}
        if what == "preupload":
            return 200, {"files": [_mode(one) for one in json.loads(body)["files"]]}
        return self._commit(repo, revision, body)

    def _create(self, wanted: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{wanted.get('organization') or 'somebody'}/{wanted['name']}"
        answer = {"url": f"{self.url}/{repo}"}
        if (repo, "main") in self.files or repo in self.data_sets:
            return 409, answer | {"error": "You already created this model repo"}
        self.files[repo, "main"] = {}
        # Releases of the library differ in how they ask for it.
        self.private[repo] = "private" in (wanted.get("visibility"), *filter(wanted.get, wanted))
        return 200, answer

    def _slot(self, one: dict[str, Any]) -> dict[str, Any]:
        href = f"{self.url}/blobs/{one['oid']}"
        return {**one, "actions": {"upload": {"href": href}}}

    def _store(self, oid: str, body: bytes) -> tuple[int, Any]:
        if self.refuses_blobs:
            return 403, {"error": "no room left"}
        assert hashlib.sha256(body).hexdigest() == oid
        self.blobs[oid] = body
        return 200, {}

    def _commit(self, repo: str, revision: str, body: bytes) -> tuple[int, Any]:
        files = self.files[repo, revision]
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.blobs[value["oid"]]
        url = f"{self.url}/{repo}/commit/{'0' * 40}"
        return 200, {"commitOid": "0" * 40, "commitUrl": url, "success": True}


def _mode(one: dict[str, Any]) -> dict[str, Any]:
    mode = "lfs" if one["path"].endswith(".safetensors") else "regular"
    return {"path": one["path"], "uploadMode": mode, "shouldIgnore": False}


@contextmanager
def running_hub() -> Iterator[StandInHub]:
    """A stand-in that listens on a free port of this machine."""
    hub = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            hub.requests.append(f"{self.command} {self.path}")
            # An upload goes to a signed address, without the token.
            known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if known or self.command == "PUT":
                status, answer = hub.answer(self.command, self.path, body)
            else:
                status, answer = 401, {"error": "Invalid username or password."}

            payload = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            if "error" in answer:
                self.send_header("X-Error-Message", answer["error"])
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(payload)

        do_POST = do_PUT = do_GET = _handle

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
