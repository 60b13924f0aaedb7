"""What there is to say of a plan before it starts: of the model, the batches, and the files beside the data."""

from __future__ import annotations

from engine.config import DatasetSpec, Preset
from engine.datasets.mix import wanted_count
from engine.datasets.report import DatasetReport
from engine.families import FAMILIES
from engine.gpu import GpuReading
from engine.units import format_count, format_share

CHARACTERS_PER_TOKEN = 4
"""English text, with tokenizers of 32 to 150 thousand tokens."""

GOLD_ROWS = (100, 500)
"""Hand-checked rows that are advised: 100 tell 70 % from 80 %, and 500 take minutes to answer."""

SLOW_ON_CPU = 200_000_000
"""Weights above which training on a CPU takes hours for what a GPU does in minutes."""


def plan_warnings(
    preset: Preset, data: DatasetSpec, report: DatasetReport, gpu: GpuReading | None, examples: int, steps: int
) -> tuple[str, ...]:
    """All of it, in sentences; `examples` are the sequences of an epoch, `steps` the optimizer steps in all."""
    model, run = _model_warnings(preset, gpu), _batch_warnings(preset, report, examples, steps)
    rows = [f"{problem.title}. {problem.effect}" for problem in report.problems if problem.level == "warning"]
    return (*rows, *model, *run, *_file_warnings(data, report))


def _model_warnings(preset: Preset, gpu: GpuReading | None) -> list[str]:
    found = []
    if gpu is None and preset.parameters > SLOW_ON_CPU:
        found.append(
            f"There is no GPU: on the CPU a model of {format_count(preset.parameters)} parameters takes hours to days."
        )
    if not FAMILIES[preset.family].exports:
        found.append(f"No GGUF file can be made of {preset.title} yet: it can be trained, not sent to Ollama.")
    return found


def _batch_warnings(preset: Preset, report: DatasetReport, examples: int, steps: int) -> list[str]:
    train, found = preset.train, []
    longest = report.longest_characters // CHARACTERS_PER_TOKEN
    if report.kind == "chat" and report.tokens is None and longest > train.max_length:
        found.append(
            f"The longest row has about {longest:,} tokens; what is behind max_length {train.max_length:,} is cut."
        )
    batch = train.micro_batch_size * train.gradient_accumulation_steps
    if examples < batch:
        what = "rows" if report.kind == "chat" else "packed sequences"
        found.append(f"The effective batch of {batch} holds more than the {examples} {what} there are.")
    elif steps < 10:
        found.append(f"Only {steps} optimizer steps: a smaller effective batch or more epochs teach more.")
    return found


def _file_warnings(data: DatasetSpec, report: DatasetReport) -> list[str]:
    """What there is to say of the files beside the data: gold, mixed-in and held-out rows."""
    found = []
    if data.gold_path and not GOLD_ROWS[0] <= report.gold_rows <= GOLD_ROWS[1]:
        advised = f"{GOLD_ROWS[0]} to {GOLD_ROWS[1]} are advised"
        found.append(f"The gold file has {report.gold_rows:,} rows; {advised}: fewer tell little, more take long.")
    own = report.rows - report.mix_rows
    if data.mix_path and report.mix_rows < wanted_count(own, data.mix_ratio):
        share = format_share(report.mix_rows / report.rows)
        wanted = format_share(data.mix_ratio)
        found.append(f"Only {report.mix_rows:,} rows can be mixed in: {share} of those to learn from, not {wanted}.")
    if data.eval_path and data.stratify != "none":
        found.append("stratify does nothing here: the held-out rows have a file of their own.")
    return found
