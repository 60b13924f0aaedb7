"""The command line: everything that the app does, as commands. stdout is data, stderr is narration."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from engine import crash
from engine.commands import export, fetching, health, planning, runs, talking, training
from engine.commands.arguments import Parser, unknown
from engine.commands.output import Output, Unwritable, flush
from engine.errors import ExitCode, FinetuiError, UsageError
from engine.text import clean_line

MODULES = (health, planning, fetching, training, runs, export, talking)

EPILOG = """\
Without a command, finetui opens the app. `finetui COMMAND --help` shows an example of each.
FINETUI_HOME moves everything that is kept; HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are honoured.

exit codes: 0 done, 1 unexpected fault, 2 usage, 3 data refused, 4 does not fit, 5 the run failed,
6 the certificate failed, 7 something needed is not there, 130 interrupted"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code says how it ended (`errors.ExitCode`)."""
    _speak_safely()
    given = list(sys.argv[1:] if argv is None else argv)
    output = Output(as_json="--json" in given)
    try:
        code = _run(given, output)
        flush()
    except BrokenPipeError:
        return _reader_left()
    except Unwritable as error:
        print(f"✗ Standard output cannot be written: {error}", file=sys.stderr)
        return _reader_left(ExitCode.FIT)
    except FinetuiError as error:
        output.error(error)
        return error.code
    except KeyboardInterrupt:
        output.error(FinetuiError("Interrupted", code=ExitCode.INTERRUPTED))
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last door: told in a sentence, kept whole in crash.log
        output.error(crash.keep(error, given))
        return ExitCode.FAULT
    return code


def _run(given: list[str], output: Output) -> int:
    parser = build_parser()
    if given and not given[0].startswith("-") and given[0] not in commands_of(parser):
        raise unknown("command", given[0], sorted(commands_of(parser)))
    try:
        arguments, extra = parser.parse_known_args(given)
    except SystemExit as done:  # --help and --version print and end
        return int(done.code or 0)
    if extra:
        raise _stray(parser, given, extra)
    if "run" not in arguments:
        parser.print_help(sys.stderr)
        return ExitCode.USAGE
    code: int = arguments.run(arguments, output)
    return code


def build_parser() -> Parser:
    """The whole command line."""
    parser = Parser(
        prog="finetui",
        description="Fine-tune a language model on one GPU, prove the export, and chat with it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"finetui {crash.program_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands", parser_class=Parser)
    for module in MODULES:
        module.add(commands)
    return parser


def commands_of(parser: Parser) -> dict[str, Parser]:
    """Each command's parser by name."""
    action = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(action.choices)


def _stray(parser: Parser, given: list[str], extra: list[str]) -> UsageError:
    command = commands_of(parser).get(given[0], parser)
    options = [name for name in extra if name.startswith("-")]
    if options:
        return unknown("option", options[0].partition("=")[0], command.option_names())
    return UsageError("Too many arguments", clean_line(" ".join(extra)), (f"{command.prog} --help",))


def _speak_safely() -> None:
    # A closed stream (`finetui runs >&-`) is None in Python: what is said there is said to nobody.
    sys.stdin = sys.stdin or Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - open as long as the process
    sys.stdout = sys.stdout or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = sys.stderr or Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    # A terminal that is not UTF-8 shows "?" for a symbol that it lacks; it must not end the command.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _reader_left(code: ExitCode = ExitCode.DONE) -> int:
    # `finetui tail … | head`: whoever read has enough. The descriptor is turned to /dev/null, so that the
    # interpreter's own flush at the end does not complain.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


if __name__ == "__main__":
    sys.exit(main())
