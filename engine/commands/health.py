"""`doctor` and `demo`: does this machine work, and does finetui work on it?"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict

from engine import demo as chain
from engine import doctor as clinic
from engine.commands.arguments import Commands, add_command
from engine.commands.export import certificate_lines, score_lines
from engine.commands.output import Output, mark, style
from engine.errors import ExitCode
from engine.state import RunState
from engine.units import format_duration


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = add_command(
        commands,
        "demo",
        "The whole chain on the bundled model and data: no network, no GPU, a few minutes.",
        "finetui demo",
    )
    parser.set_defaults(run=demo)
    parser = add_command(
        commands, "doctor", "What this machine has, what is missing, and what to do about it.", "finetui doctor"
    )
    parser.set_defaults(run=doctor)


def doctor(_: argparse.Namespace, output: Output) -> int:
    """`finetui doctor`: exit 7 if something is missing without which nothing works."""
    seen = []
    for diagnosis in clinic.examine():
        seen.append(diagnosis)
        if not output.as_json:
            output.text(mark(diagnosis.level, f"{diagnosis.name}: {diagnosis.found}"))
            if diagnosis.remedy:
                output.text(f"    → {diagnosis.remedy}")
        output.live("looking …")
    ill = any(diagnosis.essential and diagnosis.level == "error" for diagnosis in seen)
    output.result({"ok": not ill, "diagnoses": [asdict(diagnosis) for diagnosis in seen]})
    return ExitCode.MISSING if ill else ExitCode.DONE


def demo(_: argparse.Namespace, output: Output) -> int:
    """`finetui demo`."""
    told, state = chain.run(output)
    output.result(asdict(told), _demo_lines(told, state))
    return ExitCode.DONE


def _demo_lines(told: chain.Demo, state: RunState) -> Iterator[str]:
    yield ""
    yield from score_lines(state)
    yield ""
    yield from certificate_lines(state.checks)
    yield ""
    yield f"{style('asked', 'dim')}   {told.question}"
    yield f"{style('answers', 'dim')} {told.answer}"
    yield ""
    yield f"{told.run} took {format_duration(told.seconds)}. Go on: finetui chat {told.run}"
