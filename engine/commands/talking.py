"""`chat`: ask the model that came out of a run, or any GGUF file."""

from __future__ import annotations

import argparse
import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from engine import runs
from engine.commands.arguments import Commands, add_command, add_quant
from engine.commands.output import Output, is_terminal, mark, style
from engine.config import Quant
from engine.errors import ExitCode, MissingError, RunError, UsageError
from engine.paths import RunDir, absolute, is_file
from engine.text import clean, clean_line

if TYPE_CHECKING:
    from engine.chat import ChatSession, Done
    from engine.datasets import Message


MAX_TEMPERATURE = 10.0
"""Far above every use; the model's process divides by it, and dies of no number."""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands,
        "chat",
        "Talk to an exported model. Ctrl-C stops an answer, Ctrl-D leaves.",
        'finetui chat last --prompt "My invoice shows VAT twice. What now?"',
    )
    parser.add_argument("model", metavar="RUN|FILE.gguf", help="a run's name (`last`: the newest), or a GGUF file")
    add_quant(parser)
    parser.add_argument("--prompt", metavar="T", help="ask this, print the answer, and end")
    parser.add_argument(
        "--max-tokens", type=_max_tokens, default=512, metavar="N", help="longest answer (default: 512)"
    )
    parser.add_argument("--temperature", type=_temperature, default=0.0, metavar="X", help="0 (the default) is greedy")
    parser.set_defaults(run=chat)


def _max_tokens(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise UsageError("The longest answer cannot be meant", clean_line(repr(text)), ("--max-tokens 512",))
    return int(text)


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= MAX_TEMPERATURE:  # no number is not in between either
        detail = f"{clean_line(repr(text))} is not from 0 to {MAX_TEMPERATURE:g}"
        raise UsageError("The temperature cannot be meant", detail, ("0 is greedy, 0.7 is usual.",))
    return value


def chat(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui chat`."""
    path = find_model(arguments.model, arguments.quant)
    prompt = arguments.prompt
    if prompt is None and (arguments.json or not is_terminal(sys.stdin)):
        prompt = sys.stdin.read().strip()
        if not prompt:
            raise UsageError("Nothing was asked", "the standard input is empty", ('Add --prompt "…".',))
    with _session(path, output) as session:
        if prompt is None:
            return _converse(session, arguments, output)
        return _answer_once(session, path, prompt, arguments, output)


def find_model(name: str, quants: tuple[Quant, ...] | None = None) -> Path:
    """The GGUF file that is meant: a path, or a run's (the plan's first precision unless told which).

    Raises `MissingError` if it is not there, `UsageError` if the name means nothing.
    """
    if name.endswith(".gguf"):
        path = absolute(name)
        if not is_file(path):
            raise MissingError("The model file is not there", clean_line(str(path)), ("`finetui runs` lists runs.",))
        return path
    run = runs.find(name)
    wanted = quants or (*runs.load_plan(run).export.quants, "bf16")
    found = [run.gguf(quant) for quant in wanted if run.gguf(quant).is_file()] or ([] if quants else run.ggufs)
    if not found:
        raise _not_exported(run, quants)
    return found[0]


def _not_exported(run: RunDir, quants: tuple[Quant, ...] | None) -> MissingError:
    asked = f" --quant {','.join(quants)}" if quants else ""
    there = ", ".join(path.name for path in run.ggufs) or "none"
    return MissingError(
        "The run has no such GGUF file", f"{run.name} has {there}", (f"finetui gguf {run.name}{asked}",)
    )


@contextmanager
def _session(path: Path, output: Output) -> Iterator[ChatSession]:
    from engine.chat import ChatSession

    output.live(f"loading {path.name} …")
    session = ChatSession(path)
    try:
        session.start()
        output.live("")
        if session.note:
            output.say(mark("warning", session.note))
        yield session
    finally:
        session.close()


def _answer_once(session: ChatSession, path: Path, prompt: str, arguments: argparse.Namespace, output: Output) -> int:
    answer, done = answer_to(session, [{"role": "user", "content": prompt}], arguments, echo=not output.as_json)
    if output.as_json:
        figures = {"tokens": done.tokens, "seconds": done.seconds, "reason": done.reason}
        output.result({"model": path, "prompt": prompt, "answer": answer, **figures})
    return ExitCode.INTERRUPTED if done.reason == "cancelled" else ExitCode.DONE


def answer_to(
    session: ChatSession, messages: list[Message], arguments: argparse.Namespace, *, echo: bool
) -> tuple[str, Done]:
    """One whole answer, streamed to stdout if `echo`; Ctrl-C stops it."""
    from engine.chat import Delta

    parts: list[str] = []
    done: Done | None = None
    with _cancelling(session):
        for piece in session.ask(messages, arguments.max_tokens, arguments.temperature):
            if not isinstance(piece, Delta):
                done = piece
                continue
            parts.append(clean(piece.text))
            if echo:
                print(parts[-1], end="", flush=True)
    if echo:
        print(flush=True)
    if done is None:
        raise RunError("The answer broke off", "the model's process did not say how it ended", ("Ask again.",))
    return "".join(parts), done


@contextmanager
def _cancelling(session: ChatSession) -> Iterator[None]:
    def cancel(_number: int, _frame: FrameType | None) -> None:
        # In a thread: the handler may have cut into a write to the model's process, whose lock it would wait for.
        threading.Thread(target=session.cancel, daemon=True).start()

    before = signal.signal(signal.SIGINT, cancel)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _converse(session: ChatSession, arguments: argparse.Namespace, output: Output) -> int:
    import readline  # noqa: F401 - gives input() its line editing and history

    output.say("Ctrl-C stops an answer, Ctrl-D leaves.")
    messages: list[Message] = []
    while True:
        try:
            asked = input("› ").strip()
        except EOFError:
            output.say()
            return ExitCode.DONE
        except KeyboardInterrupt:
            output.say()
            continue
        if not asked:
            continue
        messages.append({"role": "user", "content": asked})
        answer, done = answer_to(session, messages, arguments, echo=True)
        messages.append({"role": "assistant", "content": answer})
        rate = done.tokens / done.seconds if done.seconds else 0.0
        output.say(style(f"{done.tokens} tokens, {rate:.0f} tok/s, {done.reason}", "dim", sys.stderr))
