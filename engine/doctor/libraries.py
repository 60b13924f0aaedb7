"""The libraries: which versions, and what they say when a child process tries them on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.doctor.diagnosis import Diagnosis
from engine.events import Level
from engine.gpu import GpuReading
from engine.text import clean_line

PROBE_TIMEOUT_S = 120.0
"""The first import of torch after a boot reads some gigabytes; the first CUDA call loads as much again."""

ESSENTIAL = ("torch", "transformers", "trl", "peft", "bitsandbytes", "gguf", "llama-cpp-python")
"""Without these no run gets from its plan to an answer."""

ASKED = ("torch", "bitsandbytes", "llama")
PROBE = (sys.executable, "-P", "-m", "engine.worker.libraries")

DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}
"""The oldest Linux driver for each CUDA (CUDA release notes, table "CUDA Toolkit and minimum required driver")."""

FRESH = "Install finetui again into a fresh environment; this one cannot load the library."
TORCH = "https://pytorch.org/get-started/locally/"

Told = Mapping[str, Any]
Judgement = tuple[Level, str, str]
"""How bad, what was found, what to do."""


def package(name: str) -> Diagnosis:
    """A package's version."""
    try:
        found = version(name)
    except PackageNotFoundError:
        return Diagnosis(name, "error", "not installed", "Install it: pip install finetui", essential=True)
    return Diagnosis(name, "ok", found, facts={"version": found})


def probe(timeout_s: float = PROBE_TIMEOUT_S) -> Mapping[str, Told]:
    """What torch, bitsandbytes and llama.cpp say of themselves, each `{"error": …}` if it cannot be asked."""
    try:
        done = subprocess.run(PROBE, capture_output=True, timeout=timeout_s, check=False)
        output, end = done.stdout, f"ended the process it was loaded in (exit code {done.returncode})"
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or b"", f"no answer within {timeout_s:.0f} s"
    except OSError as error:
        output, end = b"", f"the probe could not be started: {error.strerror or error}"
    return _heard(output, end)


def _heard(output: bytes, end: str) -> dict[str, Told]:
    """The answers; who was being asked at the end is to blame for it, and nobody was asked after that."""
    found: dict[str, Told] = {}
    asking = ASKED[0]
    for line in output.decode("utf-8", "replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # a library that prints something of its own
        if isinstance(told, dict) and "asking" in told:
            asking = told["asking"]
        elif isinstance(told, dict) and "name" in told:
            found[told["name"]] = told["told"]
    late = {name: {"error": end if name == asking else f"not asked: {asking} {end}"} for name in ASKED}
    return {**late, **found}


def judged(found: Mapping[str, Told], gpus: Sequence[GpuReading]) -> Iterator[Diagnosis]:
    """What the answers mean on a machine with these GPUs."""
    yield _answer("torch loads", found["torch"], lambda told: _torch(told, gpus))
    yield _answer("bitsandbytes loads", found["bitsandbytes"], lambda told: _bitsandbytes(told, gpus))
    yield _answer("llama.cpp loads", found["llama"], lambda told: _llama(told, bool(gpus)))


def _answer(name: str, told: Told, judge: Callable[[Told], Judgement]) -> Diagnosis:
    if "error" in told:
        return Diagnosis(name, "error", clean_line(str(told["error"])), FRESH, essential=True)
    level, found, remedy = judge(told)
    return Diagnosis(name, level, clean_line(found, 400), remedy, facts=told)


def _torch(told: Told, gpus: Sequence[GpuReading]) -> Judgement:
    if told["available"]:
        return _torch_on_gpu(told)
    if told["computes"]:
        return "error", f"does not compute on the CPU: {told['computes']}", FRESH
    if told["cuda"] is None:
        built = "built for AMD's ROCm" if told["hip"] else "built for the CPU only"
        return ("warning", built, f"Install torch with CUDA: {TORCH}") if gpus else ("ok", built, "")
    found = f"built for CUDA {told['cuda']}, finds no GPU"
    return ("warning", found, _why_blind(told["cuda"], gpus[0])) if gpus else ("ok", found, "")


def _torch_on_gpu(told: Told) -> Judgement:
    architectures = told["architectures"]
    for device in told["devices"]:
        capability = (device["capability"][0], device["capability"][1])
        if architectures and not covers(architectures, capability):
            number = "{}.{}".format(*capability)
            found = f"built for {', '.join(architectures)}, not for {device['name']} (compute capability {number})"
            return "error", found, f"Install a torch that was built for this card: {TORCH}"
    names = ", ".join("{} ({}.{})".format(device["name"], *device["capability"]) for device in told["devices"])
    if told["computes"]:
        remedy = "See who holds its memory, and whether the driver fits; then reboot."
        return "error", f"CUDA {told['cuda']} sees {names}, and fails on it: {told['computes']}", remedy
    return "ok", f"CUDA {told['cuda']} computes on {names}", ""


def covers(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether code for these architectures (`sm_86`, `compute_90`, `sm_90a`) runs on a card of that capability.

    Machine code runs on later minor versions of its major one; intermediate code (`compute_`) on everything later; with
    a letter at its end only on exactly that version, with `f` on its family (CUDA C++ programming guide, "Compute
    capability" and "Family-specific features").
    """
    return any(_runs(name, capability) for name in architectures)


def _runs(name: str, capability: tuple[int, int]) -> bool:
    kind, _, number = name.partition("_")
    digits = number.rstrip("af")
    if not digits.isdecimal():
        return False
    built = divmod(int(digits), 10)
    if number.endswith("a"):
        return built == capability
    if kind == "compute" and not number.endswith("f"):
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def _why_blind(cuda: str, gpu: GpuReading) -> str:
    """Why a torch that was built for CUDA finds no GPU that the driver has."""
    wanted = int(cuda.partition(".")[0])
    if gpu.cuda is not None and int(gpu.cuda.partition(".")[0]) < wanted:
        older = f"install torch for CUDA {gpu.cuda.partition('.')[0]}: {TORCH}"
        driver = f"update it to {DRIVERS.get(wanted, 'the newest')} or later"
        return f"The driver {gpu.driver or ''} runs CUDA up to {gpu.cuda}: {driver}, or {older}"
    if gpu.mig:
        return f"Choose the slice: CUDA_VISIBLE_DEVICES={gpu.uuid}"
    return "Unset CUDA_VISIBLE_DEVICES; if it stays so, reboot: the driver may have been updated beneath."


def _bitsandbytes(told: Told, gpus: Sequence[GpuReading]) -> Judgement:
    if told["computes"]:
        remedy = "It looks for a library for torch's CUDA: install bitsandbytes again, and see BNB_CUDA_VERSION."
        return "error", f"NF4 does not work on the {told['device']}: {told['computes']}", remedy
    if told["device"] == "cuda":
        return "ok", "NF4 works on the GPU", ""
    if gpus:
        return "warning", "NF4 works on the CPU only", "It follows torch: mend that first."
    return "ok", "NF4 works on the CPU", ""


def _llama(told: Told, has_gpu: bool) -> Judgement:
    if told["gpu"]:
        return "ok", "runs on the GPU", ""
    if has_gpu:
        remedy = 'Answers are slow. Build it with CUDA: CMAKE_ARGS="-DGGML_CUDA=on" pip install llama-cpp-python'
        return "warning", "runs on the CPU only", remedy + " --force-reinstall --no-cache-dir"
    return "ok", "runs on the CPU", ""
