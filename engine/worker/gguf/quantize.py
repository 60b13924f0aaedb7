"""Quantize a bf16 GGUF file with llama.cpp, in a child process that can be ended at any moment."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import Quant
from engine.errors import RunError
from engine.text import clean_line

WAIT_S = 0.2
"""How often it is asked whether to stop while the child says nothing."""


@dataclass(frozen=True)
class Quantized:
    """What llama.cpp said of the file that it wrote."""

    fallbacks: int = 0
    """Tensors whose rows do not divide into the blocks of the wanted type; they got a larger one."""
    tensors: int = 0


def quantize(
    source: Path,
    target: Path,
    quant: Quant,
    on_tensor: Callable[[int, int], None],
    check_stop: Callable[[], None] = lambda: None,
) -> Quantized:
    """Write `target` in the precision `quant`; `on_tensor(done, total)` follows. Raises `RunError`.

    `check_stop` is called several times a second; what it raises ends the child and comes through.
    """
    quantized = Quantized()
    command = [sys.executable, "-P", "-m", "engine.worker.quantize", str(source), str(target), quant]
    try:
        with closing(replies(command, check_stop)) as told:
            for said in told:
                if "done" in said:
                    on_tensor(said["done"], said["total"])
                elif "fallbacks" in said:
                    quantized = Quantized(said["fallbacks"], said["tensors"])
    except RunError as error:
        hint = "Is the disk full? Otherwise make the bf16 file again: finetui gguf RUN --quant bf16"
        detail = f"{source.name}: {error.detail}"
        raise RunError(f"llama.cpp could not quantize to {quant}", detail, (hint,)) from error
    return quantized


def replies(command: Sequence[str], check_stop: Callable[[], None]) -> Generator[dict[str, Any]]:
    """The JSON lines of a child, as they come. It is killed if `check_stop` raises or nobody wants the next one.

    Raises `RunError` with what it said last if it ends with another code than 0.
    """
    last = ""
    with tempfile.TemporaryFile() as errors:
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors) as child:
            try:
                for line in _lines(child, check_stop):
                    said = json.loads(line)
                    last = str(said.get("error", last))
                    yield said
            except BaseException:
                child.kill()
                raise
        errors.seek(0)
        last = last or errors.read()[-2000:].decode("utf-8", "replace")
    if child.returncode != 0:
        code = child.returncode
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise RunError("The child process failed", clean_line(f"{how}; {last}" if last else how, 400))


def _lines(child: subprocess.Popen[bytes], check_stop: Callable[[], None]) -> Iterator[bytes]:
    assert child.stdout is not None
    output = child.stdout.fileno()
    left = b""
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            check_stop()
            if not selector.select(WAIT_S):
                continue
            read = os.read(output, 65536)
            if not read:
                return
            *whole, left = (left + read).split(b"\n")
            yield from whole
