"""What a run writes, part by part, against the room there is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from engine.config import Preset, Quant
from engine.families import FAMILIES
from engine.paths import home
from engine.presets import hub_cache, is_local
from engine.units import GIB, MIB
from engine.vram import CPU_LIBRARIES_BYTES, MARGIN, Budget, Part, adapter_width, offloaded_bytes

BITS_PER_WEIGHT: dict[Quant, float] = {
    "bf16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.56,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.57,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "Q3_K_M": 3.97,
    "Q2_K": 3.16,
}
"""Of Llama-3.1-8B, by llama.cpp's tools/quantize/README.md (Q3_K_M, which it leaves out: between Q3_K_S and Q3_K_L)."""

TOKEN_BYTES = 150
"""A token of the vocabulary in a tokenizer.json: 17 MB for the 128,256 of Llama 3. A GGUF file needs less."""


def disk_budget(preset: Preset, *, on_cpu: bool, free_bytes: int | None = None) -> Budget:
    """Everything that lies on the disk of finetui's home at the end of all stages; `free_bytes` None: asked now."""
    download = _download_bytes(preset) if same_disk(hub_cache(), home()) else 0
    parts = [("model download", download), *_run_parts(preset, on_cpu=on_cpu), ("Ollama's copy", _ollama_bytes(preset))]
    free = free_disk(home()) if free_bytes is None else free_bytes
    found = tuple(Part(name=name, size_bytes=size) for name, size in parts if size)
    return Budget(parts=found, available_bytes=free)


def cache_budget(preset: Preset) -> Budget | None:
    """What is downloaded to a disk of its own, where the Hugging Face cache has one; None if `disk_budget` has it."""
    size = _download_bytes(preset)
    if not size or same_disk(hub_cache(), home()):
        return None
    return Budget(parts=(Part(name="model download", size_bytes=size),), available_bytes=free_disk(hub_cache()))


SHARD_BYTES = 5 * 10**9
"""The most that one file of a model's weights holds: what Hugging Face cuts them into."""

GPU_LIBRARIES_BYTES = 3 * GIB
"""torch with CUDA in the worker's own memory: its libraries, and what the driver maps there."""


def ram_budget(preset: Preset, *, longest: int | None = None, free_bytes: int | None = None) -> Budget:
    """The machine's own memory that training on a GPU takes; without a GPU the ledger itself counts it."""
    parts = [
        ("Python and its libraries", CPU_LIBRARIES_BYTES + GPU_LIBRARIES_BYTES),
        ("weights while they are loaded", min(preset.download_bytes, SHARD_BYTES)),
        ("offloaded checkpoints", offloaded_bytes(preset, longest)),
    ]
    free = _free_ram() if free_bytes is None else free_bytes
    return Budget(parts=tuple(Part(name=name, size_bytes=size) for name, size in parts if size), available_bytes=free)


def _free_ram() -> int:
    import psutil  # here, not above: the light start does not need it

    return int(psutil.virtual_memory().available * (1 - MARGIN))


def keep_bytes(preset: Preset, *, on_cpu: bool) -> int:
    """What the run's own folder holds at the end."""
    return sum(size for _, size in _run_parts(preset, on_cpu=on_cpu))


def _run_parts(preset: Preset, *, on_cpu: bool) -> list[tuple[str, int]]:
    adapter, checkpoint = _adapter_bytes(preset, on_cpu=on_cpu)
    # While a checkpoint is written, the one that it replaces is still there.
    parts = [("checkpoints", (preset.train.keep_checkpoints + 1) * checkpoint), ("adapter", adapter)]
    parts.append(("merged model", 2 * preset.parameters + _tokenizer_bytes(preset)))
    quants: tuple[Quant, ...] = tuple(dict.fromkeys(("bf16", *preset.export.quants)))
    return parts + [(f"GGUF {quant}", gguf_bytes(preset, quant)) for quant in quants]


def gguf_bytes(preset: Preset, quant: Quant) -> int:
    """About what a GGUF file of the model takes."""
    return int(preset.parameters * BITS_PER_WEIGHT[quant] / 8) + _tokenizer_bytes(preset)


def _tokenizer_bytes(preset: Preset) -> int:
    return TOKEN_BYTES * preset.architecture.vocab_size


def _adapter_bytes(preset: Preset, *, on_cpu: bool) -> tuple[int, int]:
    """The adapter's folder with its tokenizer, and a checkpoint: the adapter with Adam's two moments."""
    weights = FAMILIES[preset.family].lora_parameters(preset.architecture, preset.lora.rank)
    adapter = weights * adapter_width(preset.train, on_cpu=on_cpu)
    return adapter + _tokenizer_bytes(preset), 3 * adapter + MIB


def _download_bytes(preset: Preset) -> int:
    return 0 if is_local(preset) else preset.download_bytes


def ollama_models() -> Path | None:
    """Where Ollama keeps its models on this machine; None if there is no such folder."""
    named = os.environ.get("OLLAMA_MODELS")
    known = (Path("~/.ollama/models").expanduser(), Path("/usr/share/ollama/.ollama/models"))
    folders = (Path(named).expanduser(),) if named else known
    return next((folder for folder in folders if _is_dir(folder)), None)


def _is_dir(folder: Path) -> bool:
    try:
        return folder.is_dir()
    except OSError:  # the service's own folder may be closed to this user
        return False


def _ollama_bytes(preset: Preset) -> int:
    """Ollama keeps a copy of the file that it is sent: the first of the quantized ones."""
    folder = ollama_models()
    if folder is None or not same_disk(folder, home()):
        return 0
    return gguf_bytes(preset, preset.export.quants[0])


def same_disk(one: Path, other: Path) -> bool:
    """True if both paths lie, or would lie, on one file system."""
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def free_disk(path: Path) -> int:
    """Bytes that may still be written at a path that may not exist yet."""
    return shutil.disk_usage(existing(path)).free
