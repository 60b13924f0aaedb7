"""`presets`, `check` and `plan`: what could be trained, on what, and whether it fits. Nothing here starts anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from engine import gpu, paths, presets
from engine.commands.arguments import Commands, add_command, assignments
from engine.commands.output import Output, error_lines, mark, pairs, style, table
from engine.config import DatasetSpec, Preset, first_fault
from engine.datasets.scan import DatasetReport, scan
from engine.disk import free_disk
from engine.errors import DataError, ExitCode, FitError, UsageError
from engine.gpu import GpuReading
from engine.paths import home
from engine.plan import Plan, describe, make_plan, require_fit
from engine.text import clean_line
from engine.units import MIB, format_bytes, format_count, parse_bytes


def add(commands: Commands) -> None:
    """Declare the commands."""
    parser = add_command(
        commands, "presets", "The models with settings that are known to work.", "finetui presets demo"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="show this preset with all its settings")
    parser.set_defaults(run=show_presets)

    parser = add_command(
        commands, "check", "Read a data file and say what is wrong with it.", "finetui check data.jsonl"
    )
    parser.add_argument("data", metavar="DATA", help="a JSON Lines file")
    parser.add_argument("--preset", metavar="P", help="check against this preset's longest row")
    parser.add_argument("--format", default="auto", help="how a row is written (default: found out)")
    parser.set_defaults(run=check)

    parser = add_command(
        commands,
        "plan",
        "Decide everything about a run and say whether it fits; starts nothing.",
        "finetui plan --preset demo --set lora.rank=8 --gpu-memory 24GiB",
    )
    add_choices(parser)
    parser.add_argument("--gpu-memory", metavar="SIZE", type=size, help="plan for a GPU of this size, like 24GiB")
    parser.add_argument("--save", metavar="FILE", type=Path, help="write the plan for `finetui train --plan`")
    parser.set_defaults(run=plan)


def add_choices(parser: argparse.ArgumentParser) -> None:
    """What decides a plan: preset, data, overrides, name."""
    parser.add_argument("--preset", metavar="P", help="a preset's name, or a TOML file")
    parser.add_argument("--data", metavar="D", help="a JSON Lines file (the demo brings its own)")
    parser.add_argument("--format", default=None, help="how a row is written (default: found out)")
    parser.add_argument(
        "--set", metavar="key=value", nargs="+", action="append", default=[], help="change settings of the preset"
    )
    parser.add_argument("--name", metavar="N", default="", help="what to call the run")


def size(text: str) -> int:
    """A size as an argument. Raises `UsageError`."""
    try:
        found = parse_bytes(text)
    except ValueError as error:
        raise UsageError("The size cannot be read", str(error)) from None
    if found < MIB:
        raise UsageError("The size cannot be meant", f"{clean_line(text)!r} is {found} bytes", ("Write it like 24GiB",))
    return found


# ── presets ──────────────────────────────────────────────────────────────────────────────────────────────


def show_presets(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui presets [NAME]`."""
    if arguments.name:
        preset = presets.find_preset(arguments.name)
        data = {**preset.model_dump(), "local": presets.is_local(preset)}
        output.result({"preset": data}, _preset_lines(preset))
        return ExitCode.DONE
    found = presets.list_presets()
    rows = [_preset_row(preset) for preset in found]
    data = {"presets": [{**preset.model_dump(), "local": presets.is_local(preset)} for preset in found]}
    output.result(data, table([("name", "size", "licence", "here", "good at"), *rows], right={1}))
    return ExitCode.DONE


def _preset_row(preset: Preset) -> tuple[str, ...]:
    licence = preset.licence + (" (gated)" if preset.gated else "")
    here = "✓" if presets.is_local(preset) else format_bytes(preset.download_bytes)
    return preset.name, format_count(preset.parameters), licence, here, clean_line(preset.good_at, 60)


def _preset_lines(preset: Preset) -> Iterator[str]:
    yield style(preset.title, "strong")
    yield from pairs({
        "model": clean_line(preset.model),
        "parameters": format_count(preset.parameters),
        "download": format_bytes(preset.download_bytes),
        "context": f"{preset.context_length:,} tokens",
        "licence": preset.licence + (" (gated)" if preset.gated else ""),
        "": preset.licence_note,
        "good at": preset.good_at,
    })  # fmt: skip
    yield ""
    yield style("settings, to change with --set name=value", "strong")
    yield from table(
        [(setting.name, clean_line(setting.value, 28), setting.help) for setting in presets.settings(preset)]
    )


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────


def check(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui check DATA`: exit 3 if the data cannot be trained on."""
    preset = presets.find_preset(arguments.preset) if arguments.preset else None
    report = read_report(DatasetSpec(path=absolute(arguments.data), format=arguments.format), output)
    lines = list(report_lines(report))
    if preset is not None:
        lines.append(_length_line(report, preset))
    output.result({"refused": report.refused, **report.model_dump()}, lines)
    return ExitCode.DATA if report.refused else ExitCode.DONE


def absolute(path: str) -> str:
    """A path as the worker, which runs elsewhere, can find it."""
    return str(paths.absolute(path))


def read_report(data: DatasetSpec, output: Output) -> DatasetReport:
    """Scan the data, telling how far it is."""

    def tell(done: int, total: int) -> None:
        output.live(f"reading {Path(data.path).name}: {format_bytes(done)} of {format_bytes(total)}")

    report = scan(data, tell)
    output.live("")
    return report


def report_lines(report: DatasetReport) -> Iterator[str]:
    """The report for people: what it is, then each problem with its places and its remedy."""
    figures = f"{report.rows:,} rows, about {format_count(report.approximate_tokens)} tokens"
    yield f"{clean_line(report.path)}: {report.format}, {figures}, {format_bytes(report.size_bytes)}"
    for problem in report.problems:
        yield mark(problem.level, ": ".join(filter(None, (problem.title, ", ".join(problem.places)))))
        yield f"    {problem.effect}"
        yield f"    → {problem.remedy}"
    if not report.problems:
        yield mark("ok", "nothing wrong was found")


def _length_line(report: DatasetReport, preset: Preset) -> str:
    longest, limit = report.longest_characters, preset.train.max_length
    # One token holds at least one character, except for rare byte-level splits: below the limit nothing is cut.
    if longest <= limit:
        return mark("ok", f"the longest row, {longest:,} characters, is within {limit:,} tokens of {preset.name}")
    return mark(
        "warning",
        f"the longest row has {longest:,} characters; {preset.name} cuts at {limit:,} tokens, and counts them",
    )


# ── plan ─────────────────────────────────────────────────────────────────────────────────────────────────


def plan(arguments: argparse.Namespace, output: Output) -> int:
    """`finetui plan`: exit 4 if it does not fit."""
    pretended = gpu.pretend(arguments.gpu_memory) if arguments.gpu_memory else None
    made = make(arguments, output, pretended)
    if arguments.save:
        _save(made, arguments.save)
        output.say(f"Saved; start it with: finetui train --plan {arguments.save}")
    misfit = _misfit(made)
    advice = misfit.hints if misfit else ()
    lines = [*plan_lines(made), *(error_lines(misfit, sys.stdout) if misfit else ())]
    output.result({"fits": misfit is None, "advice": advice, "plan": made.model_dump()}, lines)
    return misfit.code if misfit else ExitCode.DONE


def _misfit(made: Plan) -> FitError | None:
    try:
        require_fit(made)
    except FitError as error:
        return error
    return None


def _save(made: Plan, path: Path) -> None:
    try:
        path.write_text(made.model_dump_json(indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError("The plan cannot be saved", f"{path}: {error.strerror or error}") from error


def make(arguments: argparse.Namespace, output: Output, pretended: GpuReading | None = None) -> Plan:
    """The plan that the arguments decide. Raises `UsageError`, `DataError`; that it does not fit raises nothing."""
    preset = _choose(arguments)
    return decide(preset, preset.data, arguments.name, output, pretended)


def decide(preset: Preset, data: DatasetSpec, slug: str, output: Output, pretended: GpuReading | None = None) -> Plan:
    """Scan the data, read the GPU and the disk, and plan."""
    report = read_report(data, output)
    reading = pretended or first_gpu()
    return make_plan(preset, data, report, reading, slug=slug, disk_free_bytes=free_disk(home()))


def _choose(arguments: argparse.Namespace) -> Preset:
    if not arguments.preset:
        raise UsageError(
            "Which model?", "--preset is missing", ("`finetui presets` lists them; --preset demo is one.",)
        )
    preset = presets.find_preset(arguments.preset)
    if arguments.data == "":
        raise UsageError("--data is empty", "", ("Name the file; an unset variable of the shell is empty too.",))
    if arguments.data is not None:
        preset = preset.model_copy(update={"data": DatasetSpec(path=absolute(arguments.data))})
    changes = assignments(arguments.set)
    if arguments.format:
        changes["data.format"] = arguments.format
    preset = _found_from_here(_without_foreign_rows(preset, presets.override(preset, changes), changes))
    if not preset.data.path:
        raise UsageError(
            "Which data?", f"the preset {preset.name} brings none", ("Add --data FILE, a JSON Lines file.",)
        )
    return preset


def _without_foreign_rows(before: Preset, after: Preset, changes: Mapping[str, str]) -> Preset:
    """The held-out file that a preset brings belongs to its own data: other data are not judged by it."""
    named = {name.removeprefix("data.") for name in changes}
    if after.data.path == before.data.path or "eval_path" in named:
        return after
    return after.model_copy(update={"data": after.data.model_copy(update={"eval_path": ""})})


def _found_from_here(preset: Preset) -> Preset:
    # `--set data.eval_path=x` is relative to the user's folder; the worker runs in another one.
    paths = {key: absolute(value) for key in ("path", "eval_path") if (value := getattr(preset.data, key))}
    return preset.model_copy(update={"data": preset.data.model_copy(update=paths)})


def load(path: Path, slug: str, output: Output) -> Plan:
    """A saved plan, decided anew for this machine from its preset and data.

    Raises `UsageError` if the file is no plan, `DataError` if the data are not those that it was made for.
    """
    try:
        saved = Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError("The plan cannot be read", f"{path}: {error.strerror or error}") from None
    except ValidationError as error:
        remedy = "Make it again: finetui plan … --save FILE"
        raise UsageError("This file is not a plan", f"{path}: {first_fault(error)}", (remedy,)) from None
    fresh = decide(saved.preset, saved.data, slug or saved.slug, output)
    if fresh.summary.sha256 != saved.summary.sha256:
        detail = f"{saved.data.path} had {saved.summary.rows:,} rows, now {fresh.summary.rows:,}"
        raise DataError("The data changed since the plan was made", detail, ("Make the plan again: finetui plan …",))
    return fresh


def first_gpu() -> GpuReading | None:
    """The GPU to plan for: the one with the most free memory; None without one."""
    found = gpu.read().gpus
    return max(found, key=lambda seen: seen.free_bytes or 0, default=None)


def plan_lines(made: Plan) -> Iterator[str]:
    """The plan for people, a screen at most."""
    yield from pairs({name: clean_line(value) for name, value in describe(made)})
    yield from (mark("warning", warning) for warning in made.warnings)
