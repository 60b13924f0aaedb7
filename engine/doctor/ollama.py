"""Ollama: is it there, is it new enough, and does it compute on the GPU?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine.doctor.diagnosis import Diagnosis
from engine.errors import FinetuiError
from engine.ollama import Client
from engine.text import clean_line
from engine.units import format_share

RESTART = "Restart it, so that it looks for the GPU again: sudo systemctl restart ollama"


def ollama(has_gpu: bool) -> Diagnosis:
    """The server's version, and where it computes: it tells that only of models that are loaded."""
    try:
        client = Client()
        version = client.require_version()
        loaded = client.loaded()
    except FinetuiError as error:
        remedy = error.hints[0] if error.hints else "Only `finetui ollama` needs it: https://ollama.com/download"
        return Diagnosis("Ollama", "warning", clean_line(str(error)), remedy)
    here = urlsplit(client.url).hostname in ("127.0.0.1", "localhost", "::1")
    facts: dict[str, Any] = {"version": version, "loaded": loaded}
    if loaded:
        return _loaded(version, loaded[0], has_gpu and here, facts)
    if not (has_gpu and here):
        return Diagnosis("Ollama", "ok", version, facts=facts)
    libraries = cuda_libraries(shutil.which("ollama"))
    facts["cuda_libraries"] = libraries
    if libraries == ():
        remedy = "Install it again, so that it can use the GPU: https://ollama.com/download"
        return Diagnosis("Ollama", "warning", f"{version}, without libraries for CUDA", remedy, facts=facts)
    brings = f", with {', '.join(libraries)}" if libraries else ""
    unsaid = f"{version}{brings}; where it computes it says only while a model is loaded"
    return Diagnosis("Ollama", "ok", unsaid, "To see it: ollama run MODEL, then finetui doctor", facts=facts)


def _loaded(version: str, model: tuple[str, int, int], has_gpu: bool, facts: dict[str, Any]) -> Diagnosis:
    name, size, on_gpu = model
    share = on_gpu / size if size else 0.0
    if on_gpu:
        return Diagnosis("Ollama", "ok", f"{version}, {format_share(share)} of {name} on the GPU", facts=facts)
    if has_gpu:
        return Diagnosis("Ollama", "warning", f"{version}, {name} runs on the CPU", RESTART, facts=facts)
    return Diagnosis("Ollama", "ok", f"{version}, {name} runs on the CPU", facts=facts)


def cuda_libraries(binary: str | None) -> tuple[str, ...] | None:
    """The libraries for CUDA that were installed beside Ollama (`cuda_v12`, …); None if that cannot be seen."""
    if binary is None:
        return None
    folder = Path(binary).resolve().parent.parent / "lib" / "ollama"
    if not folder.is_dir():
        return None
    return tuple(sorted(found.name for found in folder.glob("cuda*") if found.is_dir()))
