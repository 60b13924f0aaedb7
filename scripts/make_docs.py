"""Write docs/commands.md from the commands' own help: `python scripts/make_docs.py [--check]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from engine.cli import build_parser
from engine.errors import ExitCode

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"

MEANINGS = {
    ExitCode.DONE: "done",
    ExitCode.FAULT: "an unexpected fault: a defect of finetui",
    ExitCode.USAGE: "a command, a name or a setting that cannot be meant",
    ExitCode.DATA: "the data were refused",
    ExitCode.FIT: "it does not fit: GPU memory or disk",
    ExitCode.RUN: "the run failed",
    ExitCode.CERTIFICATE: "the certificate failed: the export is not the model that was trained",
    ExitCode.MISSING: "something needed is not there: GPU, Ollama, network, a gated model, an earlier stage",
    ExitCode.INTERRUPTED: "interrupted",
}


def page() -> str:
    """The whole page as Markdown."""
    os.environ["COLUMNS"] = "100"  # argparse folds its help at the terminal's width
    parser = build_parser()
    lines = [
        "# Commands",
        "",
        "`finetui` without arguments opens the app. Everything that the app does, a command does too. With `--json` a",
        "command prints one JSON object on standard output; narration goes to standard error. This page is made from",
        "the commands' own help.",
        "",
        "## Exit codes",
        "",
        "| code | meaning |",
        "|---:|---|",
        *(f"| {code.value} | {MEANINGS[code]} |" for code in ExitCode),
        "",
    ]
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for name, command in actions[0].choices.items():
        lines += [f"## finetui {name}", "", "```", command.format_help().rstrip(), "```", ""]
    return "\n".join(lines)


def main() -> int:
    """Write the page; with `--check`, exit 1 if it is not what the commands say now."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        PAGE.write_text(page())
        return 0
    if PAGE.exists() and PAGE.read_text() == page():
        return 0
    print("docs/commands.md is not what the commands say now (run: make docs)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
