"""What this machine has, what is missing, and what to do about it. Heavy libraries are asked in a child process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from engine import gpu
from engine.disk import existing, free_disk
from engine.errors import FinetuiError
from engine.events import Level
from engine.gpu import GpuReading
from engine.paths import home
from engine.presets import hub_cache
from engine.text import clean_line
from engine.units import GIB, format_bytes

PROBE_TIMEOUT_S = 60.0
"""The first import of torch after a boot reads some gigabytes; on a slow disk that takes a while."""

LOW_DISK_BYTES = 40 * GIB
"""An 8B export needs about 37 GB at its peak (merged folder, bf16 GGUF, quantized GGUF)."""

LOW_RAM_BYTES = 16 * GIB
"""Merging an 8B model in 16 bits holds its 16 GB of weights in memory, less what stays on disk."""

ESSENTIAL = ("torch", "transformers", "trl", "peft", "bitsandbytes", "gguf", "llama-cpp-python")
"""Without these no run gets from its plan to an answer."""

# Each library is asked by itself: one that does not load must not hide the others.
_PROBE = """
import json, sys
def torch():
    import torch
    return {"cuda": torch.version.cuda, "available": torch.cuda.is_available(), "count": torch.cuda.device_count()}
def bitsandbytes():
    import bitsandbytes
    return {"loads": True}
def llama():
    import llama_cpp
    return {"gpu": bool(llama_cpp.llama_supports_gpu_offload())}
found = {}
for ask in (torch, bitsandbytes, llama):
    try:
        found[ask.__name__] = ask()
    except BaseException as error:
        found[ask.__name__] = {"error": f"{type(error).__name__}: {error}"}
print("\\n" + json.dumps(found))
"""


@dataclass(frozen=True)
class Diagnosis:
    """One line of the doctor: what was looked at, what was found, what to do."""

    name: str
    level: Level
    found: str
    remedy: str = ""
    essential: bool = False
    """Nothing works while this is an error."""


def examine() -> Iterator[Diagnosis]:
    """Look at everything, in the order in which one would mend it."""
    yield _python()
    yield from map(_package, ("finetui", *ESSENTIAL))
    reading = gpu.read()
    yield from _gpus(reading.gpus, reading.problem)
    yield from _libraries(probe(), has_gpu=bool(reading.gpus))
    for look in (_ollama, _disk, _memory, _cache, _token, _terminal):
        yield look()


def _python() -> Diagnosis:
    return Diagnosis("Python", "ok", f"{platform.python_version()}, {sys.executable}")


def _package(name: str) -> Diagnosis:
    try:
        return Diagnosis(name, "ok", version(name))
    except PackageNotFoundError:
        return Diagnosis(name, "error", "not installed", "Install it: pip install finetui", essential=True)


def _gpus(found: tuple[GpuReading, ...], problem: str) -> Iterator[Diagnosis]:
    if not found:
        yield Diagnosis(
            "GPU", "warning", problem or "none", "The demo and small models run on the CPU; others need an NVIDIA GPU."
        )
    for seen in found:
        memory = f"{format_bytes(seen.free_bytes)} of {format_bytes(seen.total_bytes)} free"
        yield Diagnosis("GPU", "ok", f"{seen.name}, {memory}, driver {seen.driver or 'n/a'}")


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> Mapping[str, Mapping[str, Any]]:
    """What torch, bitsandbytes and llama.cpp say of themselves, each `{"error": …}` if it cannot be asked."""
    command = [sys.executable, "-P", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
        found = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired:
        return _unasked(f"no answer within {timeout_s:.0f} s")
    except (OSError, ValueError, IndexError) as error:
        return _unasked(f"the probe ended badly: {error}")
    return dict(found)


def _unasked(reason: str) -> dict[str, dict[str, str]]:
    return {name: {"error": reason} for name in ("torch", "bitsandbytes", "llama")}


def _libraries(found: Mapping[str, Mapping[str, Any]], *, has_gpu: bool) -> Iterator[Diagnosis]:
    yield _answer("torch loads", found["torch"], lambda told: _torch(told, has_gpu))
    yield _answer("bitsandbytes loads", found["bitsandbytes"], lambda _: ("ok", "yes", ""))
    yield _answer("llama.cpp loads", found["llama"], lambda told: _llama(told, has_gpu))


def _answer(
    name: str, told: Mapping[str, Any], judge: Callable[[Mapping[str, Any]], tuple[Level, str, str]]
) -> Diagnosis:
    if "error" in told:
        remedy = "Install finetui again into a fresh environment; this one cannot load the library."
        return Diagnosis(name, "error", clean_line(str(told["error"])), remedy, essential=True)
    level, found, remedy = judge(told)
    return Diagnosis(name, level, found, remedy)


def _torch(told: Mapping[str, Any], has_gpu: bool) -> tuple[Level, str, str]:
    if told["available"]:
        return "ok", f"CUDA {told['cuda']}, {told['count']} device(s)", ""
    if told["cuda"]:
        remedy = "The driver may be too old for this CUDA; update it." if has_gpu else ""
        return ("warning" if has_gpu else "ok"), f"built for CUDA {told['cuda']}, finds no GPU", remedy
    if has_gpu:
        return "warning", "built for the CPU only", "Install torch with CUDA: https://pytorch.org/get-started/locally/"
    return "ok", "built for the CPU only", ""


def _llama(told: Mapping[str, Any], has_gpu: bool) -> tuple[Level, str, str]:
    if told["gpu"]:
        return "ok", "runs on the GPU", ""
    if has_gpu:
        remedy = 'Answers are slow. Build it with CUDA: CMAKE_ARGS="-DGGML_CUDA=on" pip install llama-cpp-python'
        return "warning", "runs on the CPU only", remedy + " --force-reinstall --no-cache-dir"
    return "ok", "runs on the CPU", ""


def _ollama() -> Diagnosis:
    from engine.ollama import Client

    try:
        return Diagnosis("Ollama", "ok", clean_line(Client().version()))
    except FinetuiError as error:
        remedy = error.hints[0] if error.hints else "Only `finetui ollama` needs it: https://ollama.com/download"
        return Diagnosis("Ollama", "warning", clean_line(str(error)), remedy)


def _disk() -> Diagnosis:
    place, free = existing(home()), free_disk(home())
    found = f"{format_bytes(free)} free at {clean_line(str(home()))}"
    if not os.access(place, os.W_OK):
        return Diagnosis("disk", "error", f"{place} cannot be written", "Set FINETUI_HOME elsewhere.", essential=True)
    if free < LOW_DISK_BYTES:
        return Diagnosis("disk", "warning", found, f"An 8B export takes {format_bytes(LOW_DISK_BYTES)} for a while.")
    return Diagnosis("disk", "ok", found)


def _memory() -> Diagnosis:
    seen = psutil.virtual_memory()
    found = f"{format_bytes(seen.available)} of {format_bytes(seen.total)} free"
    if seen.total < LOW_RAM_BYTES:
        return Diagnosis("RAM", "warning", found, "Enough for small models; merging an 8B model needs 16 GiB.")
    return Diagnosis("RAM", "ok", found)


def _cache() -> Diagnosis:
    cache = hub_cache()
    offline = ", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else ""
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    return Diagnosis("Hugging Face cache", "ok", f"{clean_line(str(cache))}, {models} models{offline}")


def _token() -> Diagnosis:
    # Only whether there is one: the token itself is never read, and never shown.
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token").expanduser()
    if os.environ.get("HF_TOKEN") or file.is_file():
        return Diagnosis("Hugging Face token", "ok", "present")
    remedy = "Gated models (Llama, Gemma) need one: hf auth login"
    return Diagnosis("Hugging Face token", "warning", "none", remedy)


def _hub_home() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or default)


def _terminal() -> Diagnosis:
    term, encoding = os.environ.get("TERM", ""), (sys.stdout.encoding or "").lower()
    colours = os.environ.get("COLORTERM") or ("256 colours" if "256" in term else "16 colours")
    found = f"TERM={clean_line(term) or 'not set'}, {clean_line(colours)}, {encoding}"
    if term in ("", "dumb"):
        return Diagnosis("terminal", "warning", found, "The app needs a terminal; the commands work without one.")
    if "utf" not in encoding:
        return Diagnosis("terminal", "warning", found, "Charts need UTF-8: set LANG to a UTF-8 locale, like C.UTF-8.")
    return Diagnosis("terminal", "ok", found)
