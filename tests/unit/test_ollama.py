"""The Ollama client against a local server that speaks Ollama's API, faults included. No real Ollama is tried here."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ExitCode, MissingError, RunError, UsageError
from engine.ollama import Client, modelfile, server_url, valid_name

BODY = b"GGUF" + bytes(range(256)) * 12_000  # 3 MB: more than one chunk
DIGEST = "sha256:" + hashlib.sha256(BODY).hexdigest()


class FakeOllama(ThreadingHTTPServer):
    """What the server has, what it was asked, and how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.version = "0.30.2"
        self.models = ["llama3.2:latest"]
        self.blobs: set[str] = set()
        self.uploads = 0
        self.created: list[dict[str, Any]] = []
        self.break_upload = False
        self.create_error = ""
        self.cut_create = False
        self.answer_html = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: FakeOllama

    def log_message(self, *_arguments: object) -> None:
        pass

    def reply(self, code: int, *lines: object) -> None:
        text = "\n".join(json.dumps(line) for line in lines).encode()
        if self.server.answer_html:
            text = b"<html>It works</html>"
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path.rpartition("/")[2] in self.server.blobs else 404)
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.reply(200, {"version": self.server.version})
        else:
            self.reply(200, {"models": [{"name": name} for name in self.server.models]})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        if self.path.startswith("/api/blobs/"):
            self.upload(length)
        elif self.path == "/api/create":
            self.create(json.loads(self.rfile.read(length)))
        else:
            self.rfile.read(length)
            pieces = [{"message": {"content": text}, "done": False} for text in ("Hel", "lo\x1b[2J")]
            self.reply(200, *pieces, {"done": True})

    def upload(self, length: int) -> None:
        if self.server.break_upload:
            self.rfile.read(length // 2)
            self.connection.close()
            return
        digest = "sha256:" + hashlib.sha256(self.rfile.read(length)).hexdigest()
        self.server.uploads += 1
        if self.path.rpartition("/")[2] != digest:
            self.reply(400, {"error": "digest mismatch"})
            return
        self.server.blobs.add(digest)
        self.reply(201)

    def create(self, body: dict[str, Any]) -> None:
        self.server.created.append(body)
        if self.server.create_error:
            self.reply(200, {"status": "parsing GGUF"}, {"error": self.server.create_error})
        elif self.server.cut_create:
            self.reply(200, {"status": "parsing GGUF"})
        else:
            self.server.models.append(body["model"])
            self.reply(200, {"status": "validating GGUF model", "total": 9, "completed": 3}, {"status": "success"})


@pytest.fixture
def server() -> Iterator[FakeOllama]:
    server = FakeOllama()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    file = tmp_path / "model.Q8_0.gguf"
    file.write_bytes(BODY)
    return file


def ignore(_what: str, _done: int, _total: int) -> None:
    pass


def test_create_uploads_and_names_the_file(server: FakeOllama, gguf: Path) -> None:
    Client(server.url).create("desk", gguf, {"num_ctx": 4096, "stop": ["<|eot_id|>"]}, ignore)
    assert server.blobs == {DIGEST}
    assert server.created == [
        {
            "model": "desk:latest",
            "files": {"model.Q8_0.gguf": DIGEST},
            "parameters": {"num_ctx": 4096, "stop": ["<|eot_id|>"]},
            "stream": True,
        }
    ]


def test_no_template_is_sent(server: FakeOllama, gguf: Path) -> None:
    Client(server.url).create("desk", gguf, {}, ignore)
    assert "template" not in server.created[0]


def test_a_file_that_is_there_is_not_sent_again(server: FakeOllama, gguf: Path) -> None:
    for _ in range(2):
        Client(server.url).create("desk", gguf, {}, ignore)
    assert server.uploads == 1


def test_progress_is_told_in_bytes_to_the_end(server: FakeOllama, gguf: Path) -> None:
    told: list[tuple[str, int, int]] = []
    Client(server.url).create("desk", gguf, {}, lambda *step: told.append(step))
    for what in ("hashing", "uploading"):
        steps = [(done, total) for name, done, total in told if name == what]
        assert steps == sorted(steps)
        assert len(steps) > 1
        assert steps[-1] == (len(BODY), len(BODY))


def test_progress_may_stop_the_upload(server: FakeOllama, gguf: Path) -> None:
    class Stop(Exception):
        pass

    def stop(what: str, _done: int, _total: int) -> None:
        if what == "uploading":
            raise Stop

    with pytest.raises(Stop):
        Client(server.url).create("desk", gguf, {}, stop)
    assert not server.created


def test_an_absent_server_says_what_to_do() -> None:
    with pytest.raises(MissingError) as error:
        Client("127.0.0.1:9").version()
    assert error.value.code == ExitCode.MISSING
    assert any("ollama serve" in hint for hint in error.value.hints)


@pytest.mark.parametrize(
    ("version", "fine"),
    [
        ("0.30.0", True),
        ("0.31.1-rc2", True),
        ("1.0.0", True),
        ("0.0.0", True),
        ("0.29.9", False),
        ("0.6.3", False),
        ("", False),
    ],
)
def test_old_versions_are_refused_with_the_reason(server: FakeOllama, version: str, fine: bool) -> None:
    server.version = version
    if fine:
        assert Client(server.url).require_version() == version
        return
    with pytest.raises(MissingError, match="template") as error:
        Client(server.url).require_version()
    assert "update Ollama" in error.value.title


def test_an_error_within_create_is_told_in_ollamas_words(server: FakeOllama, gguf: Path) -> None:
    server.create_error = "unsupported architecture \x1b[31m'tiny'"
    with pytest.raises(RunError, match="unsupported architecture") as error:
        Client(server.url).create("desk", gguf, {}, ignore)
    assert "\x1b" not in error.value.detail


def test_a_create_that_ends_early_is_an_error(server: FakeOllama, gguf: Path) -> None:
    server.cut_create = True
    with pytest.raises(RunError, match="parsing GGUF"):
        Client(server.url).create("desk", gguf, {}, ignore)


def test_a_broken_upload_is_an_error_and_creates_nothing(server: FakeOllama, gguf: Path) -> None:
    server.break_upload = True
    with pytest.raises(RunError, match="broke"):
        Client(server.url).create("desk", gguf, {}, ignore)
    assert not server.created


def test_another_program_on_the_port_is_recognized(server: FakeOllama) -> None:
    server.answer_html = True
    with pytest.raises(RunError, match="not Ollama"):
        Client(server.url).version()


def test_list_gives_names_with_tags(server: FakeOllama) -> None:
    assert Client(server.url).list() == ("llama3.2:latest",)


def test_chat_streams_cleaned_pieces(server: FakeOllama) -> None:
    text = "".join(Client(server.url).chat("desk", [{"role": "user", "content": "hi"}]))
    assert text == "Hello\ufffd[2J"


@pytest.mark.parametrize("name", ["desk", "me/desk", "desk:v1", "registry.example/me/desk:v1"])
def test_good_names(name: str) -> None:
    assert valid_name(name) in (name, f"{name}:latest")


@pytest.mark.parametrize("name", ["", "two words", "../x", "a/b/c/d", "a:b:c", "x" * 81, "ü", "-a", "a\x1b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        valid_name(name)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":1234", "http://127.0.0.1:1234"),
        ("box:99", "http://box:99"),
        ("https://box", "https://box:443"),
        ("http://box:80/ollama/", "http://box:80/ollama"),
        ("[::1]:5", "http://[::1]:5"),
    ],
)
def test_host_is_read_as_ollama_reads_it(host: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert server_url() == url


def test_modelfile_quotes_and_repeats(gguf: Path) -> None:
    text = modelfile(gguf, {"num_ctx": 8192, "stop": ["<|eot_id|>", 'a "b"']})
    assert text.splitlines() == [
        "FROM ./model.Q8_0.gguf",
        "PARAMETER num_ctx 8192",
        'PARAMETER stop "<|eot_id|>"',
        'PARAMETER stop """a "b""""',
    ]


def test_modelfile_refuses_what_it_cannot_hold(gguf: Path) -> None:
    with pytest.raises(UsageError):
        modelfile(gguf, {"stop": ['"""']})
