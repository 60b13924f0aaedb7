"""ollama, the stage: refuses what is not certified, always leaves a Modelfile, asks before it takes a name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import CertificateError, MissingError, UsageError
from engine.paths import RunDir
from engine.worker import gguf, ollama


class Server:
    """Stands for `engine.ollama.Client`, which tests/unit/test_ollama.py tries against a real socket."""

    url = "http://here"
    created: list[tuple[str, str, dict[str, Any]]]

    def require_version(self) -> str:
        return "0.30.0"

    def list(self) -> tuple[str, ...]:
        return ("taken:latest",)

    def create(self, name: str, file: Path, parameters: dict[str, Any], on_progress: Callable[..., None]) -> None:
        on_progress("uploading", 1, 1)
        self.created.append((name, file.name, parameters))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server()
    server.created = []
    monkeypatch.setattr(ollama, "Client", lambda: server)
    return server


@pytest.fixture
def exported(export: Any) -> Any:
    run = export("llama")
    gguf.run(run.context("gguf"))
    certify(run, passed=True)
    return run


def certify(run: Any, passed: bool) -> None:
    content = run.run.gguf("Q8_0").read_bytes()
    checks = [{"title": "it stops", "passed": passed}]
    digest = hashlib.sha256(content).hexdigest()
    form = {"size_bytes": len(content), "sha256": digest, "passed": passed, "checks": checks}
    run.run.certificate.write_text(json.dumps({"passed": passed, "forms": {"Q8_0": form}}))


def test_creates_with_the_trained_stop_token(exported: Any, server: Server) -> None:
    ollama.run(exported.context("ollama", name="desk"))
    (name, file, parameters) = server.created[0]
    assert (name, file) == ("desk:latest", "model.Q8_0.gguf")
    assert parameters["stop"] == ["<|eot_id|>"]
    assert parameters["repeat_penalty"] == 1.0
    assert parameters["num_ctx"] == 512


def test_a_taken_name_is_refused_unless_replaced(exported: Any, server: Server) -> None:
    with pytest.raises(UsageError, match="taken"):
        ollama.run(exported.context("ollama", name="taken"))
    assert not server.created
    ollama.run(exported.context("ollama", name="taken", replace=True))
    assert server.created


def test_a_failed_certificate_is_refused_unless_insisted(exported: Any, server: Server) -> None:
    certify(exported, passed=False)
    with pytest.raises(CertificateError, match="it stops"):
        ollama.run(exported.context("ollama"))
    with pytest.raises(CertificateError, match="it stops"):
        ollama.run(exported.context("ollama", name="taken", replace=True))  # of the name, and of nothing else
    assert not server.created
    ollama.run(exported.context("ollama", uncertified=True))
    assert server.created


def test_insisting_takes_no_name(exported: Any, server: Server) -> None:
    with pytest.raises(UsageError, match="taken"):
        ollama.run(exported.context("ollama", name="taken", uncertified=True))


def test_a_missing_certificate_is_refused(exported: Any, server: Server) -> None:
    exported.run.certificate.unlink()
    with pytest.raises(CertificateError, match="not certified"):
        ollama.run(exported.context("ollama"))


def test_a_certificate_of_another_file_of_the_same_size_is_refused(exported: Any, server: Server) -> None:
    file = exported.run.gguf("Q8_0")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CertificateError, match="made later"):
        ollama.run(exported.context("ollama"))


def test_a_copy_of_the_run_s_folder_keeps_its_certificate(exported: Any, server: Server, tmp_path: Path) -> None:
    shutil.copytree(exported.run.path, tmp_path / "copy", copy_function=shutil.copyfile)  # with other times
    exported.run = RunDir(tmp_path / "copy")
    ollama.run(exported.context("ollama"))
    assert server.created


def test_without_a_server_the_modelfile_is_there(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", "127.0.0.1:9")
    with pytest.raises(MissingError, match="No Ollama"):
        ollama.run(exported.context("ollama"))
    assert exported.run.modelfile.read_text().startswith("FROM ./model.Q8_0.gguf\n")


def test_without_a_gguf_file_it_says_what_to_run(export: Any, server: Server) -> None:
    with pytest.raises(MissingError) as error:
        ollama.run(export("llama").context("ollama"))
    assert error.value.hints[0].startswith("finetui gguf")
