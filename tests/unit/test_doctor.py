"""The doctor sees what is missing, says what to do about it, and never shows a secret."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from engine import doctor
from engine.cli import main
from engine.doctor import Diagnosis
from engine.errors import ExitCode

SECRET = "hf_thisMustNeverBeShown"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")  # the discard port: nobody answers
    return tmp_path / "home"


def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes seconds; one test asks it in earnest, the others take a stored answer."""
    answer = {
        "torch": {"cuda": None, "available": False, "count": 0},
        "bitsandbytes": {"loads": True},
        "llama": {"gpu": False},
    }
    monkeypatch.setattr(doctor, "probe", lambda: answer)


def examined() -> dict[str, Diagnosis]:
    return {seen.name: seen for seen in doctor.examine()}


@pytest.mark.slow
def test_this_environment_is_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = "torch" in sys.modules  # another test of this process may have loaded it
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["ok"]) == (0, True)
    names = {line["name"] for line in told["diagnoses"]}
    assert {"Python", "torch", "bitsandbytes loads", "llama.cpp loads", "Ollama", "disk", "RAM", "terminal"} <= names
    assert ("torch" in sys.modules) == before
    assert not home.exists()


def test_a_token_is_told_of_but_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_probe(monkeypatch)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    main(["doctor"])
    seen = capsys.readouterr()
    assert "✓ Hugging Face token: present" in seen.out
    assert SECRET not in seen.out + seen.err


def test_a_library_that_does_not_load_is_essential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        doctor, "_PROBE", 'print(\'{"torch": {"error": "x"}, "bitsandbytes": {}, "llama": {"gpu": 0}}\')'
    )
    assert main(["doctor"]) == ExitCode.MISSING
    assert "✗ torch loads: x" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["import os; os.abort()", "", "print('no json')"])
def test_a_probe_that_dies_is_told_not_raised(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(doctor, "_PROBE", code)
    assert all("error" in told for told in doctor.probe().values())


def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PROBE", "import time; time.sleep(60)")
    assert "no answer within" in doctor.probe(timeout_s=0.3)["torch"]["error"]


def test_what_is_missing_but_not_needed_is_a_warning_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    without_probe(monkeypatch)
    ollama = examined()["Ollama"]
    assert (ollama.level, ollama.essential) == ("warning", False)
    assert ollama.remedy


def test_a_dumb_terminal_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    without_probe(monkeypatch)
    monkeypatch.setenv("TERM", "dumb")
    assert examined()["terminal"].level == "warning"


def test_the_doctor_creates_nothing(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    without_probe(monkeypatch)
    assert examined()["disk"].level != "error"
    assert not home.exists()
