"""A client of a local Ollama: its version, its models, create one from a GGUF file, stream a chat.

API: https://github.com/ollama/ollama/blob/main/docs/api.md. `OLLAMA_HOST` is honoured as Ollama's own client does.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.errors import MissingError, RunError, UsageError
from engine.text import clean, clean_line

if TYPE_CHECKING:
    import httpx

OLDEST = (0, 30, 0)
"""From here on Ollama runs a GGUF file's own chat template; before, it guesses one from a list of its own."""

CHUNK = 1 << 20
"""Bytes read, hashed and sent at a time."""

TIMEOUT_S = 15.0
"""For an answer to a small request. Creating has none: a large file is validated for minutes."""

Parameters = Mapping[str, str | int | float | Sequence[str]]
OnProgress = Callable[[str, int, int], None]
"""`(what, done, total)` in bytes; total 0 if that is not known."""

_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}/){0,2}[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}(?::[\w][\w.-]{0,79})?")


def valid_name(name: str) -> str:
    """The name with its tag (`latest` if it has none). Raises `UsageError`."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            "Ollama cannot name a model like this",
            clean_line(name),
            ("Letters, digits, - _ . and one colon before a tag, for example support-desk:v1",),
        )
    return name if ":" in name else f"{name}:latest"


def server_url(host: str | None = None) -> str:
    """The address that `OLLAMA_HOST` means: scheme and port may be left out, 0.0.0.0 is this machine."""
    given = (host or os.environ.get("OLLAMA_HOST") or "127.0.0.1").strip().strip("\"'")
    parts = urlsplit(given if "://" in given else f"http://{given}")
    name = parts.hostname or "127.0.0.1"
    if name in ("0.0.0.0", "::"):  # noqa: S104 - what a server listens on, read as where a client finds it
        name = "127.0.0.1"
    default = {"http": 11434, "https": 443}.get(parts.scheme, 11434)
    try:
        port = parts.port or default
    except ValueError:
        raise UsageError("OLLAMA_HOST is not an address", clean_line(given), ("For example 127.0.0.1:11434",)) from None
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}"


class Client:
    """One Ollama server."""

    def __init__(self, host: str | None = None) -> None:
        self.url = server_url(host)

    def version(self) -> str:
        """The server's version. Raises `MissingError` if there is no server."""
        return clean_line(str(self._get("/api/version").get("version", "")))

    def require_version(self) -> str:
        """The version, if it is new enough. Raises `MissingError` with the reason otherwise."""
        version = self.version()
        numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
        if numbers < OLDEST and numbers != (0, 0, 0):  # 0.0.0 is a build from source
            raise MissingError(
                "This Ollama is too old: update Ollama",
                f"it is {version or 'unknown'}, {'.'.join(map(str, OLDEST))} is needed: before, it ignores the chat "
                "template in the file and guesses one, which may not be the one that was trained",
                ("Update: https://ollama.com/download",),
            )
        return version

    def list(self) -> tuple[str, ...]:
        """Names of the models there, with tags."""
        return tuple(clean_line(str(model.get("name", ""))) for model in self._get("/api/tags").get("models") or ())

    def loaded(self) -> tuple[tuple[str, int, int], ...]:
        """The models in its memory now: name, bytes in all, bytes of them on the GPU."""
        models = self._get("/api/ps").get("models") or ()
        return tuple(
            (clean_line(str(model.get("name", ""))), int(model.get("size") or 0), int(model.get("size_vram") or 0))
            for model in models
        )

    def create(self, name: str, gguf: Path, parameters: Parameters, on_progress: OnProgress) -> None:
        """Upload the file if the server does not have it, and create the model.

        Raises `UsageError` for the name, `MissingError` without a server, `RunError` with the server's own words.
        `on_progress` may raise to stop.
        """
        name = valid_name(name)
        digest = f"sha256:{sha256(gguf, on_progress)}"
        self._upload(gguf, digest, on_progress)
        body = {"model": name, "files": {gguf.name: digest}, "parameters": dict(parameters), "stream": True}
        last = ""
        for status in self._stream("/api/create", body):
            last = clean_line(str(status.get("status", "")))
            on_progress(last, int(status.get("completed") or 0), int(status.get("total") or 0))
        if last != "success":
            raise RunError("Ollama did not finish creating the model", f"its last word: {last or 'none'}")

    def chat(self, name: str, messages: Sequence[Mapping[str, str]]) -> Iterator[str]:
        """The answer of a model there, in pieces, cleaned."""
        body = {"model": valid_name(name), "messages": [dict(message) for message in messages], "stream": True}
        for reply in self._stream("/api/chat", body):
            yield clean(str((reply.get("message") or {}).get("content", "")))

    def _upload(self, gguf: Path, digest: str, on_progress: OnProgress) -> None:
        with self._http() as client:
            if client.head(f"/api/blobs/{digest}").status_code == 200:
                return
            size = gguf.stat().st_size
            answer = client.post(
                f"/api/blobs/{digest}",
                content=_read(gguf, lambda done: on_progress("uploading", done, size)),
                headers={"Content-Length": str(size)},
                timeout=None,
            )
            _require_ok(answer.status_code, answer.text, "Ollama refused the file")

    def _get(self, path: str) -> dict[str, Any]:
        with self._http() as client:
            answer = client.get(path)
            _require_ok(answer.status_code, answer.text, "Ollama refused the request")
            return _object(answer.text)

    def _stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        with self._http() as client, client.stream("POST", path, json=body, timeout=None) as answer:
            if answer.status_code != 200:
                answer.read()
                _require_ok(answer.status_code, answer.text, "Ollama refused the request")
            for line in answer.iter_lines():
                if line.strip():
                    reply = _object(line)
                    if "error" in reply:
                        raise RunError("Ollama failed", clean_line(str(reply["error"]), 400))
                    yield reply

    @contextmanager
    def _http(self) -> Iterator[httpx.Client]:
        import httpx

        local = urlsplit(self.url).hostname in ("127.0.0.1", "localhost", "::1")
        try:
            with httpx.Client(base_url=self.url, timeout=TIMEOUT_S, trust_env=not local) as client:
                yield client
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol) as error:
            raise MissingError(
                "No Ollama answers",
                f"{self.url}: {clean_line(str(error))}",
                ("Start it: ollama serve", "Install it: https://ollama.com/download", "Elsewhere? Set OLLAMA_HOST."),
            ) from error
        except httpx.HTTPError as error:
            detail = f"{self.url}: {clean_line(str(error)) or type(error).__name__}"
            hints = ("Look at Ollama's log (journalctl -u ollama) and at its disk, then try again.",)
            raise RunError("The connection to Ollama broke", detail, hints) from error


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise RunError(
            "This is not Ollama",
            f"its answer is not a JSON object: {clean_line(text, 80)}",
            ("Another program may listen on this port; set OLLAMA_HOST.",),
        )
    return value


def _require_ok(code: int, text: str, title: str) -> None:
    if 200 <= code < 300:
        return
    raise RunError(title, f"HTTP {code}: {clean_line(text, 400)}")


def _read(path: Path, on_bytes: Callable[[int], None]) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk
            done += len(chunk)
            on_bytes(done)


def sha256(path: Path, on_progress: OnProgress) -> str:
    """A file's digest in hexadecimal; `on_progress("hashing", done, total)` follows in bytes and may raise to stop."""
    digest, size = hashlib.sha256(), path.stat().st_size
    for chunk in _read(path, lambda done: on_progress("hashing", done, size)):
        digest.update(chunk)
    return digest.hexdigest()


def modelfile(gguf: Path, parameters: Parameters) -> str:
    """A Modelfile for the GGUF file that lies beside it. Raises `UsageError` for text that it cannot hold.

    No TEMPLATE: the file has the trained one inside.
    """
    lines = [f"FROM ./{gguf.name}"]
    for key, value in parameters.items():
        values = [value] if isinstance(value, (str, int, float)) else list(value)
        lines += [f"PARAMETER {key} {_quoted(one)}" for one in values]
    return "\n".join(lines) + "\n"


def _quoted(value: str | int | float) -> str:
    if not isinstance(value, str):
        return str(value)
    if '"""' in value or "\n" in value:
        raise UsageError("A Modelfile cannot hold this text", clean_line(value))
    return f'"""{value}"""' if '"' in value else f'"{value}"'
