"""Parsers whose errors are sentences with a near match, and the arguments that several commands share."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import NoReturn, TypeAlias, get_args

from engine.config import QUANTS, Quant
from engine.errors import UsageError
from engine.text import clean_line

Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
"""Where a command is declared."""


class Parser(argparse.ArgumentParser):
    """argparse that raises `UsageError` instead of printing its usage and ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the message with the way to this command's help."""
        raise UsageError("The command cannot be meant", clean_line(message), (f"{self.prog} --help",))

    def option_names(self) -> list[str]:
        """Every option of this command, for suggestions."""
        return [name for action in self._actions for name in action.option_strings]


def add_command(commands: Commands, name: str, help_text: str, example: str) -> Parser:
    """A command's parser with its help, an example, and `--json`."""
    parser = commands.add_parser(
        name,
        help=help_text[:1].lower() + help_text[1:].rstrip("."),
        description=help_text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    return parser


def add_run(parser: argparse.ArgumentParser) -> None:
    """The argument RUN."""
    parser.add_argument("name", metavar="RUN", help="a run's name or a part of it; `last` is the newest")


def add_detach(parser: argparse.ArgumentParser) -> None:
    """`--detach`."""
    parser.add_argument("--detach", action="store_true", help="start the worker and return at once")


def add_quant(parser: argparse.ArgumentParser) -> None:
    """`--quant A,B`."""
    names = ", ".join(QUANTS)
    parser.add_argument("--quant", type=quants, metavar="Q[,Q]", help=f"GGUF precisions: {names}")


def quants(text: str) -> tuple[Quant, ...]:
    """`Q4_K_M,q8_0` → their names as llama.cpp writes them. Raises `UsageError` with a near match."""
    known = {name.lower(): name for name in get_args(Quant)}
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names or [text]:
        if name.lower() not in known:
            raise unknown("GGUF precision", name, QUANTS)
    return tuple(dict.fromkeys(known[name.lower()] for name in names))


def assignments(groups: Iterable[Sequence[str]]) -> dict[str, str]:
    """`["lora.rank=8", …]` → names and values as text. Raises `UsageError` for what is no assignment."""
    changes = {}
    for text in (item for group in groups for item in group):
        name, equals, value = text.partition("=")
        if not name or not equals:
            detail = f"{clean_line(text)!r} is not key=value"
            raise UsageError("A setting cannot be read", detail, ("Write it like --set learning_rate=1e-4",))
        changes[name.strip()] = value.strip()
    return changes


def unknown(noun: str, given: str, known: Sequence[str]) -> UsageError:
    """The error for a name that does not exist, with the nearest one that does."""
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), lower, n=1)
    hints = (f"Did you mean {lower[near[0]]}?",) if near else ()
    return UsageError(f"There is no {noun} {clean_line(given)!r}", f"There are {', '.join(known)}", hints)
