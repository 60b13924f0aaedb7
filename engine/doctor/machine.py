"""Python, disk, memory, the Hugging Face cache and the terminal."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import psutil

from engine.disk import existing, free_disk
from engine.doctor.diagnosis import Diagnosis
from engine.events import Level
from engine.paths import home
from engine.presets import hub_cache
from engine.text import clean_line
from engine.units import GIB, format_bytes

LOW_DISK_BYTES = 40 * GIB
"""An 8B export needs about 37 GB at its peak (merged folder, bf16 GGUF, quantized GGUF)."""

LOW_CACHE_BYTES = 20 * GIB
"""An 8B model in 16 bits is 16 GB to download."""

LOW_RAM_BYTES = 16 * GIB
"""Merging an 8B model in 16 bits holds its 16 GB of weights in memory, less what stays on disk."""


def python() -> Diagnosis:
    """Which Python, and on which system."""
    found = f"{platform.python_version()}, {clean_line(sys.executable)}"
    return Diagnosis("Python", "ok", found, facts={"version": platform.python_version(), "system": platform.platform()})


def disk() -> Diagnosis:
    """Room for what finetui itself writes."""
    found = _room("disk", home(), LOW_DISK_BYTES, "An 8B export takes 40 GiB for a while.")
    if found is None:
        remedy = "Set FINETUI_HOME to a folder of yours."
        return Diagnosis("disk", "error", f"{clean_line(str(home()))} cannot be written", remedy, essential=True)
    return found


def cache() -> Diagnosis:
    """Room for the models, where Hugging Face keeps them."""
    place, name = hub_cache(), "Hugging Face cache"
    models = len(list(place.glob("models--*"))) if os.access(place, os.R_OK) else 0
    more = f", {models} models" + (", offline (HF_HUB_OFFLINE)" if os.environ.get("HF_HUB_OFFLINE") else "")
    few = "An 8B model is 16 GB to download: free some space, or set HF_HOME elsewhere."
    found = _room(name, place, LOW_CACHE_BYTES, few, more)
    if found is None:
        remedy = "What is there can be used; to download more, set HF_HOME to a folder of yours."
        return Diagnosis(name, "warning", f"{clean_line(str(place))} cannot be written{more}", remedy)
    return found


def _room(name: str, place: Path, low: int, few: str, more: str = "") -> Diagnosis | None:
    """How much is free there; None if it cannot be written."""
    if not os.access(existing(place), os.W_OK):
        return None
    free = free_disk(place)
    found = f"{format_bytes(free)} free at {clean_line(str(place))}{more}"
    facts = {"path": str(place), "free_bytes": free}
    level: Level = "warning" if free < low else "ok"
    return Diagnosis(name, level, found, few if free < low else "", facts=facts)


def memory() -> Diagnosis:
    """The machine's memory."""
    seen = psutil.virtual_memory()
    found = f"{format_bytes(seen.available)} of {format_bytes(seen.total)} free"
    facts = {"free_bytes": seen.available, "total_bytes": seen.total}
    if seen.total < LOW_RAM_BYTES:
        few = "Enough for small models; merging an 8B model needs 16 GiB."
        return Diagnosis("RAM", "warning", found, few, facts=facts)
    return Diagnosis("RAM", "ok", found, facts=facts)


def token() -> Diagnosis:
    """Only whether there is one: the token itself is never read, and never shown."""
    file = Path(os.environ.get("HF_TOKEN_PATH") or _hub_home() / "token").expanduser()
    if os.environ.get("HF_TOKEN") or file.is_file():
        return Diagnosis("Hugging Face token", "ok", "present")
    remedy = "Gated models (Llama, Gemma) need one: hf auth login"
    return Diagnosis("Hugging Face token", "warning", "none", remedy)


def _hub_home() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HOME") or default)


def terminal() -> Diagnosis:
    """Whether it can show the app."""
    term, encoding = os.environ.get("TERM", ""), (sys.stdout.encoding or "").lower()
    colours = os.environ.get("COLORTERM") or ("256 colours" if "256" in term else "16 colours")
    within = ", inside tmux" if os.environ.get("TMUX") else ", inside screen" if os.environ.get("STY") else ""
    found = f"TERM={clean_line(term) or 'not set'}, {clean_line(colours)}, {encoding}{within}"
    if term in ("", "dumb"):
        return Diagnosis("terminal", "warning", found, "The app needs a terminal; the commands work without one.")
    if "utf" not in encoding:
        return Diagnosis("terminal", "warning", found, "Charts need UTF-8: set LANG to a UTF-8 locale, like C.UTF-8.")
    return Diagnosis("terminal", "ok", found)
