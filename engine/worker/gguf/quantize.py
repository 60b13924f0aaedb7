"""Quantize a bf16 GGUF file with llama.cpp."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llama_cpp import llama_cpp as api

from engine.config import Quant
from engine.errors import RunError
from engine.units import GIB
from engine.worker import llama_log
from engine.worker.llama import threads

_FTYPES: dict[Quant, int] = {
    "Q8_0": api.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q6_K": api.LLAMA_FTYPE_MOSTLY_Q6_K,
    "Q5_K_M": api.LLAMA_FTYPE_MOSTLY_Q5_K_M,
    "Q5_K_S": api.LLAMA_FTYPE_MOSTLY_Q5_K_S,
    "Q4_K_M": api.LLAMA_FTYPE_MOSTLY_Q4_K_M,
    "Q4_K_S": api.LLAMA_FTYPE_MOSTLY_Q4_K_S,
    "Q3_K_M": api.LLAMA_FTYPE_MOSTLY_Q3_K_M,
    "Q2_K": api.LLAMA_FTYPE_MOSTLY_Q2_K,
}

_PROGRESS = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_FALLBACK = re.compile(r"(\d+) of (\d+) tensor\(s\) required fallback")


@dataclass(frozen=True)
class Quantized:
    """What llama.cpp said of the file that it wrote."""

    fallbacks: int
    """Tensors whose rows do not divide into the blocks of the wanted type; they got a larger one."""
    tensors: int


def quantize(source: Path, target: Path, quant: Quant, on_tensor: Callable[[int, int], None]) -> Quantized:
    """Write `target` in the precision `quant`; `on_tensor(done, total)` follows. Raises `RunError`.

    Cannot be interrupted: it is one call into the library.
    """
    llama_log.quiet()
    told: list[tuple[int, int]] = [(0, 0)]

    def listen(line: str) -> None:
        if match := _PROGRESS.match(line):
            on_tensor(int(match[1]), int(match[2]))
        if match := _FALLBACK.search(line):
            told.append((int(match[1]), int(match[2])))

    parameters = api.llama_model_quantize_default_params()
    parameters.ftype = _FTYPES[quant]
    parameters.nthread = threads()
    parameters.max_buf_size = GIB  # the default of 8 GiB is more than many machines have to spare
    with llama_log.listening(listen):
        code = api.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if code != 0:
        raise RunError(
            f"llama.cpp could not quantize to {quant}",
            f"{source.name}: code {code}; {llama_log.last_words()}",
            ("Is the disk full? Otherwise make the bf16 file again: finetui gguf RUN --quant bf16",),
        )
    return Quantized(*told[-1])
