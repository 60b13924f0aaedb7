"""What a full disk and a full GPU look like, from whichever library they come, and what a person can do then."""

from __future__ import annotations

import errno
import re

from engine.config import StageName
from engine.errors import ExitCode, FinetuiError, RunError
from engine.paths import RunDir
from engine.text import clean_line

DISK_FULL = re.compile(
    r"No space left on device|Disk quota exceeded"  # safetensors
    r"|\d+ requested and \d+ written"  # numpy's tofile
    r"|inline_container.*unexpected pos"  # torch.save: it has written less than it thinks
    r"|iostream error"  # torch.save and llama.cpp through C++ streams, which keep no number
)
GPU_FULL = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")


def explained(stage: StageName, run: RunDir, error: BaseException) -> BaseException:
    """The error in words that say what to do, if it is of a known kind; else the error itself."""
    if isinstance(error, FinetuiError):
        return error
    if is_disk_full(error):
        hints = (f"Free some space under {run.path}, then start the stage again; nothing that was whole is lost.",)
        return FinetuiError("The disk is full", str(error), hints, ExitCode.FIT)
    if is_gpu_full(error):
        return RunError("The GPU's memory is full", clean_line(str(error), 300), _gpu_hints(stage, run))
    return error


def is_disk_full(error: BaseException) -> bool:
    """True for a full disk, by number or by what safetensors, numpy and torch say without one."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or DISK_FULL.search(str(error)) is not None


def is_gpu_full(error: BaseException) -> bool:
    """True for torch's `OutOfMemoryError`, told by its name, and for the errors of CUDA's libraries that mean it."""
    named = any(cls.__name__ == "OutOfMemoryError" for cls in type(error).__mro__)
    return named or (isinstance(error, RuntimeError) and any(words in str(error) for words in GPU_FULL))


def _gpu_hints(stage: StageName, run: RunDir) -> tuple[str, ...]:
    others = "`nvidia-smi` shows what else uses the GPU's memory: end it, then start the stage again."
    if stage == "train":
        return (others, "Or start a new run: lower train.max_length, or a smaller model (`finetui presets`).")
    if stage == "eval":
        return (others, f"Or ask fewer and shorter rows: finetui eval {run.name} --data FILE")
    return (others, f"Or leave the GPU alone: CUDA_VISIBLE_DEVICES= finetui {stage} {run.name}")
