"""`python -P -m engine.worker.quantize IN OUT TYPE`: the child of `engine.worker.gguf.quantize`, one call of llama.cpp.

A process of its own, because that call can be ended in no other way. Progress and result are JSON objects, one a line,
on standard output. It ends when its standard input is closed, so also when the worker is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import threading

from llama_cpp import llama_cpp as api

from engine.config import Quant
from engine.errors import ExitCode
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


def main() -> int:
    """Quantize; 0 once the file is whole."""
    source, target, quant = sys.argv[1:]
    threading.Thread(target=_end_with_input, daemon=True).start()
    llama_log.quiet()
    parameters = api.llama_model_quantize_default_params()
    parameters.ftype = _FTYPES[quant]  # type: ignore[index]  # the parent's is a Quant
    parameters.nthread = threads()
    parameters.max_buf_size = GIB  # the default of 8 GiB is more than many machines have to spare
    with llama_log.listening(_listen):
        code = api.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if code != 0:
        _say(error=f"code {code}; {llama_log.last_words()}")
    return ExitCode.RUN if code else ExitCode.DONE


def _end_with_input() -> None:
    while os.read(0, 64):
        pass
    os._exit(ExitCode.INTERRUPTED)


def _listen(line: str) -> None:
    if match := _PROGRESS.match(line):
        _say(done=int(match[1]), total=int(match[2]))
    if match := _FALLBACK.search(line):
        _say(fallbacks=int(match[1]), tensors=int(match[2]))


def _say(**values: object) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    sys.exit(main())
