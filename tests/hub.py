"""A hub on this machine: as much of the Hugging Face hub's protocol as huggingface_hub and `datasets` speak to it.

It serves a folder of repositories, `datasets/ORG/NAME/…` and `models/ORG/NAME/…`, as they stand there now: each state
is one commit on `main`. Large formats are served as the hub serves LFS files, by a redirect to a blob that is named by
its SHA-256. `requests` holds what was asked; the other fields make it misbehave.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

LFS = (".parquet", ".arrow", ".safetensors", ".gguf", ".bin", ".zip")
CHUNK = 4096
API = re.compile(
    r"/api/(datasets|models)/([^/]+/[^/]+)(?:/(revision|tree|paths-info|auth-check)(?:/([^/]+)(?:/(.*))?)?)?"
)
RESOLVE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    token: str
    range: str


class Answer(NamedTuple):
    """An answer that is no success."""

    ending: str
    """Of the path that it is for."""
    status: int
    headers: Mapping[str, str] = {}


class Refusal(Exception):
    """An answer that is an error, with the code that the hub puts in its header."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.headers = status, code, message, headers or {}


@dataclass
class File:
    """A file of a repository, with the two hashes that the hub knows it by."""

    path: str
    data: bytes

    @property
    def lfs(self) -> bool:
        return self.path.endswith(LFS)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()

    def entry(self) -> dict[str, Any]:
        """As the tree lists it."""
        entry = {"type": "file", "path": self.path, "size": len(self.data), "oid": self.blob_id}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 134}
        return entry


@dataclass
class Hub:
    """The server; `with Hub(folder) as hub:` runs it, `hub.environment()` leads a process to it."""

    root: Path
    gated: dict[str, str] = field(default_factory=dict)
    """Repository → the token that may read its files."""
    private: dict[str, str] = field(default_factory=dict)
    """Repository → the token that may know that it is there."""
    tokens: set[str] | None = None
    """Tokens that the hub knows; None: any."""
    broken: dict[str, int] = field(default_factory=dict)
    """End of a file's name → after how many bytes each answer with it breaks off."""
    wrong: set[str] = field(default_factory=set)
    """Ends of names of files that are sent with other bytes than their hash is of."""
    bytes_per_s: float = 0
    """How fast files are sent; 0: at once."""
    status: int = 0
    """Answer everything with this status; 0: no."""
    answers: list[Answer] = field(default_factory=list)
    """Each is given once, to the next request for its path."""
    claims: dict[str, int] = field(default_factory=dict)
    """End of a file's name → the size that the listing tells, whatever it is."""
    cut: dict[str, int] = field(default_factory=dict)
    """End of a file's name → the byte behind which it is never sent, however often it is asked for."""
    requests: list[Asked] = field(default_factory=list)
    sent: int = 0
    """Bytes of files that were sent."""

    def __enter__(self) -> Hub:
        self._blobs: dict[str, File] = {}
        self._read: dict[tuple[Path, int], File] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, self))
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that lead Hugging Face's libraries here, with their cache in `home`, and nowhere else."""
        here = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*"}
        return {**here, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "", "HF_HUB_CACHE": str(home / "hub")}

    def downloads(self, ending: str = "") -> list[Asked]:
        """The requests that fetched bytes of files."""
        wanted = [asked for asked in self.requests if asked.method == "GET" and "/api/" not in asked.path]
        return [asked for asked in wanted if asked.path.endswith(ending)]

    def add(self, repo: str, files: Mapping[str, str | bytes], kind: str = "datasets") -> Path:
        """Write a repository's files; returns its folder."""
        folder = self.root / kind / repo
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return folder

    def files(self, kind: str, repo: str) -> dict[str, File]:
        """The repository's files. Raises `Refusal` as the hub does for a name that it does not know: with 401."""
        folder = self.root / kind / repo
        if not folder.is_dir():
            raise Refusal(401, "RepoNotFound", "Repository not found")
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): self._file(folder, path) for path in paths}

    def _file(self, folder: Path, path: Path) -> File:
        key = path, path.stat().st_mtime_ns
        if key not in self._read:
            self._read[key] = File(path.relative_to(folder).as_posix(), path.read_bytes())
        return self._read[key]

    def commit(self, kind: str, repo: str, revision: str = "main") -> str:
        """The commit that a revision means: there is one, by the files' content."""
        listing = [file.entry() for file in self.files(kind, repo).values()]
        commit = hashlib.sha1(json.dumps(listing).encode()).hexdigest()
        if revision not in ("main", commit):
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def blob(self, digest: str) -> File:
        return self._blobs[digest]

    def keep(self, file: File) -> str:
        """Where the LFS file's bytes are to be had: at another host, as a hub's are."""
        self._blobs[file.sha256] = file
        return f"http://localhost:{self._server.server_address[1]}/blobs/{file.sha256}/{file.path}"

    def require_known(self, repo: str, token: str) -> None:
        if token and self.tokens is not None and token not in self.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        if repo in self.private and token != self.private[repo]:
            raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")

    def require_access(self, repo: str, token: str) -> None:
        if repo in self.gated and token != self.gated[repo]:
            raise Refusal(403 if token else 401, "GatedRepo", f"Access to {repo} is restricted.")


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:  # the client is gone
            self.close_connection = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.hub.requests.append(Asked(self.command, path, self._token, self.headers.get("Range") or ""))
        try:
            if self.hub.status:
                raise Refusal(self.hub.status, "", "The hub is out of order")
            for answer in [answer for answer in self.hub.answers if path.endswith(answer.ending)][:1]:
                self.hub.answers.remove(answer)
                raise Refusal(answer.status, "", "Not now", answer.headers)
            self._route(path)
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message, **refusal.headers}
            self._send(refusal.status, json.dumps({"error": refusal.message}).encode(), headers)

    def _route(self, path: str) -> None:
        raw = urlsplit(self.path).path  # a revision may hold an escaped slash
        if path.startswith("/blobs/"):
            self._send_file(self.hub.blob(path.split("/")[2]), {})
        elif match := API.fullmatch(raw):
            kind, repo, verb, revision, rest = (unquote(part) if part else "" for part in match.groups())
            self._api(kind, repo, verb, revision, rest)
        elif match := RESOLVE.fullmatch(raw):
            prefix, repo, revision, name = (unquote(part) if part else "" for part in match.groups())
            self._resolve("datasets" if prefix else "models", repo, revision, name)
        else:
            raise Refusal(404, "", f"No such page: {path}")

    def _api(self, kind: str, repo: str, verb: str, revision: str, rest: str) -> None:
        self.hub.require_known(repo, self._token)
        if verb == "auth-check":
            self.hub.files(kind, repo)
            self.hub.require_access(repo, self._token)
            return self._send_json({})
        commit, files = self.hub.commit(kind, repo, revision or "main"), self.hub.files(kind, repo)
        if verb == "tree":
            self.hub.require_access(repo, self._token)
            listing = _tree(files, rest, recursive="recursive=true" in self.path.lower())
            return self._send_json([self._claimed(entry) for entry in listing])
        if verb == "paths-info":
            return self._send_json([entry for path in self._asked_paths() for entry in _entries(files, path)])
        siblings = [{"rfilename": name} for name in files]
        facts = {"private": False, "disabled": False, "gated": "manual" if repo in self.hub.gated else False}
        return self._send_json({"_id": "0", "id": repo, "sha": commit, "tags": [], "siblings": siblings, **facts})

    def _claimed(self, entry: dict[str, Any]) -> dict[str, Any]:
        sizes = [size for name, size in self.hub.claims.items() if entry["path"].endswith(name)]
        return {**entry, "size": sizes[0]} if sizes else entry

    def _asked_paths(self) -> list[str]:
        if "json" in (self.headers.get("Content-Type") or ""):
            paths = json.loads(self._body)["paths"]
            return [paths] if isinstance(paths, str) else list(paths)
        return parse_qs(self._body.decode())["paths"]

    def _resolve(self, kind: str, repo: str, revision: str, name: str) -> None:
        self.hub.require_known(repo, self._token)
        commit = self.hub.commit(kind, repo, revision)
        self.hub.require_access(repo, self._token)
        file = self.hub.files(kind, repo).get(name)
        headers = {"X-Repo-Commit": commit}
        if file is None:
            message = f"Entry not found: {name}"
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": message}
            self._send(404, message.encode(), headers)
        elif file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(len(file.data))}
            self._send(302, b"", {**headers, "Location": self.hub.keep(file)})
        else:
            self._send_file(file, {**headers, "ETag": f'"{file.blob_id}"'})

    def _send_file(self, file: File, headers: dict[str, str]) -> None:
        data, status, start = file.data, 200, 0
        if file.path.endswith(tuple(self.hub.wrong)):
            data = data[:-1] + bytes([data[-1] ^ 1])
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), min(int(asked[2] or len(data) - 1), len(data) - 1)
            status, headers = 206, {**headers, "Content-Range": f"bytes {start}-{end}/{len(data)}"}
            data = data[start : end + 1]
        limits = [size for name, size in self.hub.broken.items() if file.path.endswith(name)]
        limits += [max(0, size - start) for name, size in self.hub.cut.items() if file.path.endswith(name)]
        limit = min(limits, default=None)
        self._send(status, data, {**headers, "Accept-Ranges": "bytes"}, limit)

    def _send_json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, data: bytes, headers: Mapping[str, str], limit: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        for start in range(0, len(data), CHUNK):
            if limit is not None and start + CHUNK > limit:
                self.wfile.write(data[start:limit])
                self.close_connection = True
                return
            self.wfile.write(data[start : start + CHUNK])
            self.hub.sent += len(data[start : start + CHUNK])
            if self.hub.bytes_per_s:
                time.sleep(CHUNK / self.hub.bytes_per_s)


def _tree(files: Mapping[str, File], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    prefix = f"{folder}/" if folder else ""
    inside = {name: file for name, file in files.items() if name.startswith(prefix)}
    if not inside and folder:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
    found: dict[str, dict[str, Any]] = {}
    for name, file in inside.items():
        parts = name.removeprefix(prefix).split("/")
        for depth in range(1, len(parts)) if recursive else range(1, min(2, len(parts))):
            path = prefix + "/".join(parts[:depth])
            found[path] = {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
        if recursive or len(parts) == 1:
            found[name] = file.entry()
    return [found[path] for path in sorted(found)]


def _entries(files: Mapping[str, File], path: str) -> list[dict[str, Any]]:
    """What `paths-info` tells of one path: nothing if it is not there."""
    if path in files:
        return [files[path].entry()]
    if any(name.startswith(f"{path}/") for name in files):
        return [{"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}]
    return []
