"""`presets` and `plan`: what could be trained, on what, and whether it fits. Nothing here starts anything."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pydantic import ValidationError

from engine import gpu, planner, presets
from engine.commands import checking
from engine.commands.arguments import Commands, add_command, assignments
from engine.commands.output import Output, error_lines, mark, pairs, style, table
from engine.config import DatasetSpec, Preset, first_fault
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

    checking.add(commands)

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
    parser.add_argument(
        "--data", metavar="D", help="what to learn from, as `finetui check` takes it (the demo brings its own)"
    )
    checking.add_reading(parser)
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
    lines = table([("name", "size", "licence", "here"), *map(_preset_row, found)], right={1})
    data = {"presets": [{**preset.model_dump(), "local": presets.is_local(preset)} for preset in found]}
    output.result(data, _with_purpose(lines, ["good at", *(preset.good_at for preset in found)]))
    return ExitCode.DONE


def _with_purpose(lines: list[str], purposes: list[str]) -> list[str]:
    """A last column in the room that the terminal leaves; none where that is too little to say anything."""
    width = max(map(len, lines))
    room = shutil.get_terminal_size().columns - width - 2 if sys.stdout.isatty() else 60
    if room < 24:
        return lines
    return [f"{line:<{width}}  {clean_line(text, min(room, 60))}" for line, text in zip(lines, purposes, strict=True)]


def _preset_row(preset: Preset) -> tuple[str, ...]:
    licence = preset.licence + (" (gated)" if preset.gated else "")
    here = "✓" if presets.is_local(preset) else format_bytes(preset.download_bytes)
    return preset.name, format_count(preset.parameters), licence, here


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
    data = checking.fetched(preset.data, output)
    fixed = _fixed(assignments(arguments.set))
    return decide(preset.model_copy(update={"data": data}), data, arguments.name, output, fixed, pretended)


def _fixed(changes: Mapping[str, str]) -> tuple[str, ...]:
    """Those of the settings that could be chosen that were set by hand, with their section."""
    return tuple(name for name in planner.CHOSEN if changes.keys() & {name, name.partition(".")[2]})


def decide(
    preset: Preset,
    data: DatasetSpec,
    slug: str,
    output: Output,
    fixed: Collection[str] = (),
    pretended: GpuReading | None = None,
) -> Plan:
    """Check the data, read the GPU and the disk, and plan; `fixed` settings stay as the preset has them."""
    report = checking.read_report(data, preset, output)
    reading = pretended or first_gpu()
    return make_plan(preset, data, report, reading, slug=slug, fixed=fixed, disk_free_bytes=free_disk(home()))


def _choose(arguments: argparse.Namespace) -> Preset:
    if not arguments.preset:
        raise UsageError(
            "Which model?", "--preset is missing", ("`finetui presets` lists them; --preset demo is one.",)
        )
    preset = presets.find_preset(arguments.preset)
    if arguments.data == "":
        raise UsageError("--data is empty", "", ("Name the file; an unset variable of the shell is empty too.",))
    if arguments.data is not None:
        preset = preset.model_copy(update={"data": DatasetSpec(path=checking.absolute(arguments.data))})
    changes = assignments(arguments.set)
    changes.update({f"data.{name}": value for name, value in checking.reading(arguments).items()})
    preset = _found_from_here(_without_foreign_rows(preset, presets.override(preset, changes), changes))
    if not preset.data.path:
        raise UsageError(
            "Which data?",
            f"the preset {preset.name} brings none",
            ("Add --data FILE; `finetui check --help` shows how its rows may be written.",),
        )
    return preset


def _without_foreign_rows(before: Preset, after: Preset, changes: Mapping[str, str]) -> Preset:
    """The held-out and gold files that a preset brings belong to its own data: other data are not judged by them."""
    if after.data.path == before.data.path:
        return after
    named = {name.removeprefix("data.") for name in changes}
    foreign = dict.fromkeys({"eval_path", "gold_path"} - named, "")
    return after.model_copy(update={"data": after.data.model_copy(update=foreign)})


def _found_from_here(preset: Preset) -> Preset:
    # `--set data.eval_path=x` is relative to the user's folder; the worker runs in another one.
    paths = {key: checking.absolute(value) for key in presets.DATA_FILES if (value := getattr(preset.data, key))}
    return preset.model_copy(update={"data": preset.data.model_copy(update=paths)})


def load(path: Path, slug: str, output: Output) -> Plan:
    """A saved plan, decided anew for this machine from its preset and data; every setting stays as it was saved.

    Raises `UsageError` if the file is no plan, `DataError` if the data are not those that it was made for.
    """
    try:
        saved = Plan.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError("The plan cannot be read", f"{path}: {error.strerror or error}") from None
    except ValidationError as error:
        remedy = "Make it again: finetui plan … --save FILE"
        raise UsageError("This file is not a plan", f"{path}: {first_fault(error)}", (remedy,)) from None
    fresh = decide(saved.preset, saved.data, slug or saved.slug, output, planner.CHOSEN)
    changed = [clean_line(path) for path, digest in fresh.files.items() if saved.files.get(path) != digest]
    if changed:
        detail = f"{', '.join(changed)}: {saved.summary.rows:,} rows to learn from, now {fresh.summary.rows:,}"
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
