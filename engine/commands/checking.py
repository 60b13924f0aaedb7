"""`check`: what is wrong with the data, what their tokens come to, and what of a row is learned."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import paths, presets
from engine.commands.arguments import Commands, add_command
from engine.commands.data_text import fixed_lines, report_lines, row_lines
from engine.commands.follow import Interrupts, counting_interrupts
from engine.commands.output import Output, mark
from engine.config import DatasetSpec, Preset
from engine.datasets import FORMATS
from engine.datasets.check import Check, Step, report_for_plan
from engine.datasets.fix import Fixed, fix
from engine.datasets.hub import fetch, hub_spec
from engine.datasets.report import DatasetReport
from engine.datasets.scan import scan
from engine.errors import ExitCode, UsageError
from engine.text import clean_line
from engine.units import format_bytes, format_duration, format_share

LIVE_INTERVAL_S = 0.1
PLAIN_INTERVAL_S = 5.0
"""How often progress is told on a terminal, and elsewhere."""

EXAMPLES = """\
  finetui check data.csv --columns user=question,assistant=reply --fix clean.jsonl
  finetui check data.jsonl --preset demo --row 12"""


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = add_command(
        commands, "check", "Read data and say what is wrong with them.", "finetui check data.jsonl --preset demo"
    )
    parser.epilog = f"{parser.epilog}\n{EXAMPLES}\n\n{format_help()}".replace("%", "%%")
    parser.add_argument(
        "data", metavar="DATA", help="a file (JSON Lines, JSON, CSV, TSV, Parquet, text) or a Hugging Face data set"
    )
    parser.add_argument("--preset", metavar="P", help="count tokens with this preset's tokenizer and longest row")
    add_reading(parser)
    parser.add_argument("--quick", action="store_true", help="leave out tokens and near duplicates")
    parser.add_argument("--row", metavar="N", type=row_number, help="print row N, counted from 1, with what is learned")
    parser.add_argument("--next-finding", action="store_true", help="print the next row (behind row N) with a finding")
    parser.add_argument(
        "--fix", metavar="OUT", type=Path, help="write a cleaned copy; the exit code is then the copy's"
    )
    parser.set_defaults(run=check)


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How the rows are read: format, columns, and which part of a Hugging Face data set."""
    parser.add_argument("--format", metavar="F", default="", help="how a row is written (default: found out)")
    parser.add_argument(
        "--columns", metavar="C", default="", help="which columns hold what, like user=question,assistant=reply"
    )
    parser.add_argument(
        "--split", metavar="S", default="", help="the split of a Hugging Face data set (default: train)"
    )
    parser.add_argument("--subset", metavar="S", default="", help="the configuration of a Hugging Face data set")


def reading(arguments: argparse.Namespace) -> dict[str, str]:
    """What the arguments of `add_reading` say, as fields of a `DatasetSpec`."""
    names = ("format", "columns", "split", "subset")
    return {name: value for name in names if (value := getattr(arguments, name))}


def format_help() -> str:
    """Every format with its help and a row."""
    shown = [f"  {known.name}: {known.help}\n    {known.example}" for known in FORMATS.values()]
    return "\n".join(["formats, each with a row:", *shown])


def row_number(text: str) -> int:
    """An argument that counts from 1. Raises `UsageError`."""
    if not text.isdecimal() or int(text) < 1:
        raise UsageError("There is no such row", f"--row {clean_line(text)!r}", ("Rows are counted from 1.",))
    return int(text)


# ── the data on this machine ─────────────────────────────────────────────────────────────────────────────


def absolute(path: str) -> str:
    """A path as the worker, which runs elsewhere, can find it; the id of a Hugging Face data set as it is."""
    here = paths.absolute(path)
    elsewhere = hub_spec(path) and not os.path.isdir(here)  # noqa: PTH112 - pathlib raises for what no file can be called
    return path if elsewhere else str(here)


def fetched(spec: DatasetSpec, output: Output) -> DatasetSpec:
    """The data as a file: a Hugging Face data set is imported first, with progress."""
    if not hub_spec(spec.path):
        return spec
    teller = Teller(output, spec.path)
    local = fetch(spec, lambda now: teller.tell(now.phase, now.done, now.total, now.unit))
    output.say(f"{clean_line(local.source or spec.path, 400)} is now the file {clean_line(local.path, 400)}")
    return local


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────


def check(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui check DATA`: exit 3 if the data (the cleaned copy, where one is written) cannot be trained on."""
    if not arguments.data:
        raise UsageError("DATA is empty", "", ("Name the file; an unset variable of the shell is empty too.",))
    preset = presets.find_preset(arguments.preset) if arguments.preset else None
    spec = fetched(DatasetSpec(path=absolute(arguments.data), **reading(arguments)), output)
    fixed = fixed_copy(spec, arguments.fix, output) if arguments.fix else None
    deeper = not arguments.quick and (arguments.next_finding or not arguments.row)
    under_way = Check(spec, preset, tokens=deeper, near=deeper)
    with counting_interrupts(patience=1) as interrupts:
        last = follow(under_way, output, interrupts)
    if arguments.row or arguments.next_finding:
        return _show_row(arguments, under_way, output)
    report = last.report
    assert report is not None  # the last step has one
    output.result(_data(last, fixed), [*report_lines(report, last.note), *(fixed_lines(fixed) if fixed else ())])
    if interrupts.count:
        output.say(mark("warning", "Interrupted: what is above was known by then"))
        return ExitCode.INTERRUPTED
    refused = report.refused if fixed is None else scan(DatasetSpec(path=fixed.path)).refused
    return ExitCode.DATA if refused else ExitCode.DONE


def _data(last: Step, fixed: Fixed | None) -> Mapping[str, Any]:
    report = last.report
    assert report is not None
    data = {"refused": report.refused, **report.model_dump(), "note": last.note}
    return data if fixed is None else {**data, "fixed": fixed}


def _show_row(arguments: argparse.Namespace, under_way: Check, output: Output) -> int:
    at: int | None = (arguments.row or 0) - 1
    if arguments.next_finding:
        at = under_way.next_finding(-1 if at is None else at)
    if at is None:
        output.result({"row": None}, mark("ok", "no row has a finding"))
        return ExitCode.DONE
    row = under_way.row(at)
    assert row is not None  # everything was read
    output.result({"row": row}, row_lines(row))
    return ExitCode.DONE


def fixed_copy(spec: DatasetSpec, target: Path, output: Output) -> Fixed:
    """Write the cleaned copy, telling how far it is."""
    teller = Teller(output, spec.path)
    fixed = fix(spec, target, lambda done, total: teller.tell("cleaning", done, total, "bytes"))
    output.live("")
    return fixed


def follow(under_way: Check, output: Output, interrupts: Interrupts) -> Step:
    """Run a check to its last step, telling how far it is; Ctrl-C ends its deeper passes and keeps what is known.

    Raises `KeyboardInterrupt` while the file is still being read, and what the check raises.
    """
    teller = Teller(output, under_way.spec.path)
    for step in under_way.steps():
        if interrupts.count:
            if step.phase == "reading":
                raise KeyboardInterrupt
            under_way.stop_deeper()
        if step.phase != "done":
            teller.tell(step.phase, step.done, step.total, step.unit, " · Ctrl-C stops here")
    output.live("")
    return step


def read_report(data: DatasetSpec, preset: Preset, output: Output) -> DatasetReport:
    """What a plan needs to know of the data, telling how far it is."""
    teller = Teller(output, data.path)

    def tell(step: Step) -> None:
        if step.phase != "done":
            teller.tell(step.phase, step.done, step.total, step.unit)

    report = report_for_plan(data, preset, tell)
    output.live("")
    return report


class Teller:
    """Tells how far something is: phase, amounts, rate and time left; on a terminal in one line that moves."""

    def __init__(self, output: Output, path: str) -> None:
        self._output = output
        self._name = clean_line(Path(path).name or path, 60)
        self._phase = ""
        self._began_t = self._told_t = time.monotonic()

    def tell(self, phase: str, done: int, total: int, unit: str, more: str = "") -> None:
        """Say it if it is time to; `more` only on a terminal."""
        now = time.monotonic()
        if phase != self._phase:
            self._phase, self._began_t = phase, now
        due = LIVE_INTERVAL_S if self._output.on_terminal else PLAIN_INTERVAL_S
        if now - self._told_t < due:
            return
        self._told_t = now
        line = f"{self._name}: {progress(phase, done, total, unit, now - self._began_t)}"
        if self._output.on_terminal:
            self._output.live(line + more)
        else:
            self._output.say(line)


def progress(phase: str, done: int, total: int, unit: str, seconds: float) -> str:
    """`tokens: 1,024 of 7,512 rows (14 %) · 4,100 rows/s · 2 s left`; what is not known is left out."""
    if not unit:
        return f"{clean_line(phase)} …"

    def amount(count: float) -> str:
        return format_bytes(count) if unit == "bytes" else f"{count:,.0f}"

    rows = "" if unit == "bytes" else f" {unit}"
    parts = [
        f"{amount(done)} of {amount(total)}{rows} ({format_share(done / total)})" if total else amount(done) + rows
    ]
    if done and seconds > 0.5:
        rate = done / seconds
        parts.append(f"{amount(rate)}{rows}/s")
        if total:
            parts.append(f"{format_duration(max(total - done, 0) / rate)} left")
    return f"{clean_line(phase)}: {' · '.join(parts)}"
