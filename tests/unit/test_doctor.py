"""The doctor sees what is missing, says what to do about it, and never shows a secret."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import nvml
import pytest

from engine import doctor, gpu
from engine.cli import main
from engine.doctor import Diagnosis, libraries
from engine.doctor.graphics import graphics
from engine.doctor.libraries import covers, judged
from engine.doctor.ollama import cuda_libraries
from engine.errors import ExitCode
from engine.gpu import GpuReading, GpuStatus

SECRET = "hf_thisMustNeverBeShown"

CARD = GpuReading(
    uuid="GPU-1", name="RTX 4090", total_bytes=24 * 2**30, driver="580.126.09", cuda="13.0", compute_capability=(8, 9)
)
ON_CPU: dict[str, dict[str, Any]] = {
    "torch": {
        "cuda": None, "hip": None, "architectures": [], "available": False, "devices": [], "computes": "",
    },
    "bitsandbytes": {"device": "cpu", "cuda": False, "computes": ""},
    "llama": {"gpu": False},
}  # fmt: skip
SEEN = {"name": "RTX 4090", "capability": [8, 9]}
ON_GPU: dict[str, dict[str, Any]] = {
    "torch": {
        "cuda": "12.8", "hip": None, "architectures": ["sm_75", "sm_86", "sm_90"], "available": True,
        "devices": [SEEN], "computes": "",
    },
    "bitsandbytes": {"device": "cuda", "cuda": True, "computes": ""},
    "llama": {"gpu": True},
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FINETUI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")  # the discard port: nobody answers
    monkeypatch.setattr(gpu, "read", lambda: GpuStatus(problem="There is no NVIDIA driver on this machine."))
    return tmp_path / "home"


@pytest.fixture
def without_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch takes seconds; one test asks it in earnest, the others take a stored answer."""
    monkeypatch.setattr(libraries, "probe", lambda: ON_CPU)


def examined() -> dict[str, Diagnosis]:
    return {seen.name: seen for seen in doctor.examine()}


@pytest.mark.slow
def test_this_environment_is_well(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = "torch" in sys.modules  # another test of this process may have loaded it
    code = main(["doctor", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (code, told["ok"]) == (0, True)
    lines = {line["name"]: line for line in told["diagnoses"]}
    assert {"Python", "torch", "transformers", "peft", "trl", "Ollama", "disk", "RAM", "terminal"} <= set(lines)
    assert lines["bitsandbytes loads"]["found"] == "NF4 works on the CPU"
    assert lines["disk"]["facts"]["free_bytes"] > 0
    assert ("torch" in sys.modules) == before
    assert not home.exists()


@pytest.mark.usefixtures("without_probe")
def test_a_token_is_told_of_but_never_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    for command in (["doctor"], ["doctor", "--json"]):
        main(command)
        seen = capsys.readouterr()
        assert "Hugging Face token" in seen.out
        assert SECRET not in seen.out + seen.err


@pytest.mark.usefixtures("without_probe")
def test_what_is_missing_but_not_needed_is_a_warning_with_a_remedy() -> None:
    ollama = examined()["Ollama"]
    assert (ollama.level, ollama.essential) == ("warning", False)
    assert ollama.remedy


@pytest.mark.usefixtures("without_probe")
def test_a_dumb_terminal_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert examined()["terminal"].level == "warning"


@pytest.mark.usefixtures("without_probe")
def test_the_doctor_creates_nothing(home: Path) -> None:
    assert examined()["disk"].level != "error"
    assert not home.exists()


@pytest.mark.usefixtures("without_probe")
def test_both_disks_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = examined()
    assert found["disk"].facts["path"] == str(home)
    assert found["Hugging Face cache"].facts["path"] == str(tmp_path / "hub")


@pytest.mark.usefixtures("without_probe")
@pytest.mark.parametrize(
    ("variable", "name", "code"),
    [("FINETUI_HOME", "disk", ExitCode.MISSING), ("HF_HUB_CACHE", "Hugging Face cache", ExitCode.DONE)],
)
def test_without_a_place_to_write_to_nothing_works_and_without_a_cache_what_is_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, name: str, code: ExitCode
) -> None:
    place = tmp_path / "read-only"
    place.mkdir()
    monkeypatch.setenv(variable, str(place / "below"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)  # root may write anywhere
    assert examined()[name].level != "ok"
    assert "cannot be written" in examined()[name].found
    assert main(["doctor"]) == code


# the libraries, in a child process


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(libraries, "PROBE", (sys.executable, "-c", code))


def test_a_library_that_does_not_load_is_essential(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child(monkeypatch, 'print(\'{"name": "torch", "told": {"error": "ImportError: libcudart"}}\')')
    assert main(["doctor"]) == ExitCode.MISSING
    assert "✗ torch loads: ImportError: libcudart" in capsys.readouterr().out


@pytest.mark.parametrize("code", ["import os; os.abort()", "", "print('no json')", "print('[1]')"])
def test_a_probe_that_dies_is_told_not_raised(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    child(monkeypatch, code)
    assert all("error" in told for told in libraries.probe().values())


def test_the_library_that_ends_its_process_is_blamed_and_hides_none_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = json.dumps({"name": "torch", "told": {"available": False}})
    code = f'import os; print({torch!r}); print(\'{{"asking": "bitsandbytes"}}\', flush=True); os.abort()'
    child(monkeypatch, code)
    found = libraries.probe()
    assert found["torch"] == {"available": False}
    assert found["bitsandbytes"]["error"].startswith("ended the process")
    assert "not asked: bitsandbytes ended" in found["llama"]["error"]


def test_a_probe_that_hangs_is_ended_and_what_it_said_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    code = 'import time; print(\'{"name": "torch", "told": {"available": false}}\', flush=True); time.sleep(60)'
    child(monkeypatch, code)
    found = libraries.probe(timeout_s=1.0)
    assert found["torch"] == {"available": False}
    assert "no answer within" in found["llama"]["error"]


# what the answers mean


def verdicts(
    gpus: tuple[GpuReading, ...] = (CARD,), base: dict[str, dict[str, Any]] = ON_GPU, **changes: dict[str, Any]
) -> dict[str, Diagnosis]:
    answers = {name: {**told, **changes.get(name, {})} for name, told in base.items()}
    return {seen.name.removesuffix(" loads"): seen for seen in judged(answers, gpus)}


def test_libraries_that_compute_on_the_gpu_are_well() -> None:
    found = verdicts()
    assert {seen.level for seen in found.values()} == {"ok"}
    assert found["torch"].found == "CUDA 12.8 computes on RTX 4090 (8.9)"
    assert found["bitsandbytes"].found == "NF4 works on the GPU"


def test_without_a_gpu_the_cpu_is_no_fault() -> None:
    assert {seen.level for seen in verdicts((), ON_CPU).values()} == {"ok"}


def test_libraries_for_the_cpu_beside_a_gpu_are_a_warning_with_a_remedy() -> None:
    found = verdicts((CARD,), ON_CPU)
    assert all(seen.level == "warning" and seen.remedy for seen in found.values())
    assert "GGML_CUDA" in found["llama.cpp"].remedy


def test_a_card_that_torch_was_not_built_for_is_named() -> None:
    old = {"name": "GTX 1080", "capability": [6, 1]}
    torch = verdicts(torch={"devices": [old], "computes": "no kernel image is available"})["torch"]
    assert torch.level == "error"
    assert "sm_75" in torch.found
    assert "GTX 1080 (compute capability 6.1)" in torch.found


def test_a_driver_that_is_too_old_for_torch_is_named_with_the_one_that_is_needed() -> None:
    old = CARD.model_copy(update={"cuda": "12.4", "driver": "550.54"})
    torch = verdicts((old,), torch={"available": False, "devices": [], "cuda": "13.0"})["torch"]
    assert torch.level == "warning"
    assert "550.54" in torch.remedy
    assert "580.65" in torch.remedy


def test_a_slice_that_torch_does_not_find_is_to_be_chosen() -> None:
    part = CARD.model_copy(update={"mig": True, "uuid": "MIG-5f9a"})
    torch = verdicts((part,), torch={"available": False, "devices": []})["torch"]
    assert "CUDA_VISIBLE_DEVICES=MIG-5f9a" in torch.remedy


@pytest.mark.parametrize("name", ["torch", "bitsandbytes"])
def test_what_loads_and_does_not_compute_is_an_error(name: str) -> None:
    words = "RuntimeError: CUDA error: out of memory \x1b[31m"
    found = verdicts(**{name: {"computes": words}})[name]
    assert found.level == "error"
    assert "out of memory" in found.found
    assert "\x1b" not in found.found


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        (["sm_86"], (8, 6), True),
        (["sm_86"], (8, 9), True),
        (["sm_86"], (8, 0), False),
        (["sm_86"], (9, 0), False),
        (["sm_80", "compute_80"], (12, 0), True),
        (["sm_75", "compute_90"], (8, 9), False),
        (["sm_120"], (12, 1), True),
        (["sm_90a"], (9, 0), True),
        (["sm_100a"], (10, 3), False),
        (["compute_90a"], (10, 0), False),
        (["sm_100f"], (10, 3), True),
        (["gfx1100"], (8, 6), False),
        ([], (8, 6), False),
    ],
)
def test_machine_code_runs_within_its_major_version(
    architectures: list[str], capability: tuple[int, int], runs: bool
) -> None:
    assert covers(architectures, capability) is runs


# the GPUs

Play = Callable[[str], GpuStatus]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return lambda name: gpu.read_from(nvml.machine(name, monkeypatch))


def test_a_card_is_told_with_versions_and_who_holds_its_memory(play: Play) -> None:
    card, held = graphics(play("workstation"))
    for words in ("RTX 4090", "14.8 GiB of 24.0 GiB free", "capability 8.9", "580.126.09", "CUDA up to 13.0"):
        assert words in card.found
    assert card.facts["uuid"].startswith("GPU-1b9c")
    assert (held.level, held.name) == ("warning", "GPU memory")
    assert "kill 4711" in held.remedy


@pytest.mark.parametrize(
    ("name", "levels", "said"),
    [
        ("no-driver", ["warning"], "no NVIDIA driver"),
        ("no-devices", ["warning"], "sees no GPU"),
        ("driver-mismatch", ["error"], "reboot"),
        ("driver-not-loaded", ["error"], "modprobe"),
        ("no-permission", ["error"], "/dev/nvidia0"),
        ("mig-no-slice", ["error"], "mig -cgi"),
        ("old-driver", ["ok", "warning"], "no bfloat16"),
        ("laptop", ["ok", "ok", "warning"], "usual on laptops"),
        ("wsl2", ["ok", "ok", "ok"], "WSL2"),
        ("unified-memory", ["ok", "ok"], "memory n/a"),
        ("two-gpus", ["ok", "ok", "warning"], "RTX A4000"),
    ],
)
def test_each_machine_is_told_with_what_to_do(play: Play, name: str, levels: list[str], said: str) -> None:
    found = list(graphics(play(name)))
    assert [seen.level for seen in found] == levels
    assert said in " ".join(seen.found for seen in found)
    assert all(seen.remedy for seen in found if seen.level != "ok")


def test_a_driver_that_does_not_answer_is_an_error() -> None:
    silent = GpuStatus(problem="The NVIDIA driver has not answered for 15 s.", broken=True, silent_s=15.0)
    (found,) = graphics(silent)
    assert (found.level, found.found) == ("error", "does not answer")


@pytest.mark.usefixtures("without_probe")
def test_a_broken_driver_does_not_stop_the_doctor(
    play: Play, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = play("driver-mismatch")
    monkeypatch.setattr(gpu, "read", lambda: status)
    assert main(["doctor"]) == ExitCode.DONE
    assert "✗ GPU: The NVIDIA driver was updated while it was running: reboot" in capsys.readouterr().out


# Ollama


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A server that answers as Ollama does to `/api/version` and `/api/ps`."""
    loaded: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = {"version": "0.31.0"} if self.path == "/api/version" else {"models": loaded}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *arguments: object) -> None:
            pass

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("OLLAMA_HOST", f"127.0.0.1:{listening.server_port}")
    yield loaded.extend
    listening.shutdown()
    listening.server_close()


Load = Callable[[list[dict[str, Any]]], None]


@pytest.mark.parametrize(
    ("on_gpu", "has_gpu", "level", "said"),
    [
        (8_000, True, "ok", "100 % of llama3:8b on the GPU"),
        (6_000, True, "ok", "75 % of llama3:8b on the GPU"),
        (0, True, "warning", "runs on the CPU"),
        (0, False, "ok", "runs on the CPU"),
    ],
)
def test_ollama_tells_where_a_loaded_model_computes(
    server: Load, on_gpu: int, has_gpu: bool, level: str, said: str
) -> None:
    server([{"name": "llama3:8b", "size": 8_000, "size_vram": on_gpu}])
    found = doctor.ollama(has_gpu=has_gpu)
    assert (found.level, said in found.found) == (level, True)


@pytest.mark.parametrize(("folders", "level"), [(["cuda_v12", "cuda_v13"], "ok"), ([], "warning"), (None, "ok")])
def test_ollama_without_a_model_is_judged_by_its_libraries(
    server: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: list[str] | None, level: str
) -> None:
    binary = tmp_path / "bin" / "ollama"
    for folder in folders if folders is not None else []:
        (tmp_path / "lib" / "ollama" / folder).mkdir(parents=True)
    if folders == []:
        (tmp_path / "lib" / "ollama").mkdir(parents=True)
    monkeypatch.setattr(shutil, "which", lambda name: str(binary) if folders is not None else None)
    found = doctor.ollama(has_gpu=True)
    assert found.level == level
    assert found.remedy


def test_libraries_are_found_beside_the_binary_that_a_link_names(tmp_path: Path) -> None:
    (tmp_path / "real" / "bin").mkdir(parents=True)
    (tmp_path / "real" / "bin" / "ollama").touch()
    (tmp_path / "real" / "lib" / "ollama" / "cuda_v12").mkdir(parents=True)
    link = tmp_path / "ollama"
    link.symlink_to(tmp_path / "real" / "bin" / "ollama")
    assert cuda_libraries(str(link)) == ("cuda_v12",)
    assert cuda_libraries(None) is None
