"""Preset × data report × GPU reading × overrides → Plan: a frozen value that says what will be done, and if it fits."""

from __future__ import annotations

import math
import time
from pathlib import Path

from engine.config import DatasetSpec, ExportSpec, Frozen, LoraSpec, Preset, TrainSpec
from engine.datasets.scan import BYTES_PER_TOKEN, DatasetReport
from engine.disk import disk_budget, keep_bytes
from engine.errors import DataError, FitError, UsageError
from engine.estimate import training_seconds
from engine.gpu import GpuReading
from engine.paths import absolute, builtin_presets, home
from engine.presets import is_local
from engine.text import Text, clean_line
from engine.units import format_bytes, format_count, format_duration
from engine.vram import Budget, advise, ledger

SLOW_ON_CPU = 200_000_000
"""Weights above which training on a CPU takes hours for what a GPU does in minutes."""


class GpuChoice(Frozen):
    """The GPU that the plan was made for."""

    uuid: str
    name: Text
    total_bytes: int | None
    free_bytes: int | None


class DataSummary(Frozen):
    """What the scan of the data found, as far as training and the screens need it."""

    path: str
    format: str
    sha256: str
    rows: int
    """Rows to learn from."""
    eval_rows: int
    eval_sha256: str = ""
    """Of the file of held-out rows, if the data name one."""
    approximate_tokens: int
    """Estimated from the length of the text; training counts them exactly."""


class Plan(Frozen):
    """Everything that a run does, decided before it starts."""

    version: int = 1
    slug: str
    """The run's name without its time."""
    created_t: float
    preset: Preset
    """With every override applied; model and data are absolute paths or hub ids."""
    data: DatasetSpec
    summary: DataSummary
    device: str
    """cuda or cpu."""
    gpu: GpuChoice | None
    vram: Budget
    disk: Budget
    steps: int
    """Optimizer steps in all."""
    warmup_steps: int
    warnings: tuple[Text, ...] = ()

    @property
    def lora(self) -> LoraSpec:
        """The adapter."""
        return self.preset.lora

    @property
    def train(self) -> TrainSpec:
        """The training settings."""
        return self.preset.train

    @property
    def export(self) -> ExportSpec:
        """The files to make."""
        return self.preset.export

    @property
    def effective_batch(self) -> int:
        """Rows to one optimizer step."""
        return self.train.micro_batch_size * self.train.gradient_accumulation_steps

    @property
    def passes(self) -> float:
        """How often each row is seen: what the steps make of the epochs."""
        return self.steps * self.effective_batch / max(self.summary.rows, 1)

    @property
    def seconds(self) -> float | None:
        """About how long the training takes, without loading and evaluation; None for a card that is not known."""
        rows, tokens = self.summary.rows, self.summary.approximate_tokens
        return training_seconds(self.preset, rows, tokens, self.steps, self.gpu.name if self.gpu else None)


def make_plan(
    preset: Preset,
    data: DatasetSpec,
    report: DatasetReport,
    gpu: GpuReading | None,
    *,
    slug: str = "",
    disk_free_bytes: int | None = None,
) -> Plan:
    """Decide everything that the run will do. `gpu` None: on the CPU.

    A plan that does not fit is returned as well: `plan.vram.fits` and `plan.disk.fits` say it, `require_fit`
    raises. Raises `DataError` if the report refuses the data, `UsageError` for settings that contradict each other.
    """
    require_data(report)
    _require_length(preset)
    steps = count_steps(preset.train, report.rows)
    return Plan(
        slug=slug or _slug(preset, data),
        created_t=time.time(),
        preset=preset,
        data=_absolute(data),
        summary=_summary(report),
        device="cpu" if gpu is None else "cuda",
        gpu=None if gpu is None else _choice(gpu),
        vram=ledger(preset, gpu),
        disk=disk_budget(preset, on_cpu=gpu is None, free_bytes=disk_free_bytes),
        steps=steps,
        warmup_steps=math.ceil(steps * preset.train.warmup_ratio),
        warnings=tuple(_warnings(preset, report, gpu, steps)),
    )


def require_data(report: DatasetReport) -> None:
    """Raise `DataError` with every fault of the data if the report refuses them."""
    errors = [problem for problem in report.problems if problem.level == "error"]
    if not errors:
        return
    first = errors[0]
    detail = f"{clean_line(report.path, 400)}: {first.title}"
    detail += f" ({', '.join(first.places)}{', …' if first.count > len(first.places) else ''})" if first.places else ""
    hints = [first.remedy, *(f"Also: {problem.title}. {problem.remedy}" for problem in errors[1:])]
    raise DataError("The data were refused", f"{detail}. {first.effect}", hints)


def _require_length(preset: Preset) -> None:
    if preset.train.max_length > preset.context_length:
        raise UsageError(
            "max_length is longer than the model's context",
            f"{preset.train.max_length} tokens; {preset.name} was made for {preset.context_length}",
            (f"--set max_length={preset.context_length}",),
        )


def count_steps(train: TrainSpec, rows: int) -> int:
    """Optimizer steps: as transformers' Trainer counts them, `ceil(epochs × ceil(rows / effective batch))`."""
    if train.max_steps is not None:
        return train.max_steps
    an_epoch = math.ceil(rows / (train.micro_batch_size * train.gradient_accumulation_steps))
    return max(1, math.ceil(an_epoch * train.epochs))


def _slug(preset: Preset, data: DatasetSpec) -> str:
    bundled = Path(data.path).is_relative_to(builtin_presets())
    return preset.name if bundled else Path(data.path).stem


def _absolute(data: DatasetSpec) -> DatasetSpec:
    """The worker runs in the run's folder, so its paths must not hang on where the plan was made."""
    eval_path = str(absolute(data.eval_path)) if data.eval_path else ""
    path = str(absolute(data.path))
    return data.model_copy(update={"path": path, "eval_path": eval_path})


def _summary(report: DatasetReport) -> DataSummary:
    return DataSummary(
        path=report.path,
        format=report.format,
        sha256=report.sha256,
        rows=report.rows,
        eval_rows=report.eval_rows,
        eval_sha256=report.eval_sha256,
        approximate_tokens=report.approximate_tokens,
    )


def _choice(gpu: GpuReading) -> GpuChoice:
    name = gpu.name or "a GPU that does not tell its name"
    return GpuChoice(uuid=gpu.uuid or "", name=name, total_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes)


def _warnings(preset: Preset, report: DatasetReport, gpu: GpuReading | None, steps: int) -> list[str]:
    train = preset.train
    found = [f"{problem.title}. {problem.effect}" for problem in report.problems if problem.level == "warning"]
    if gpu is None and preset.parameters > SLOW_ON_CPU:
        found.append(
            f"There is no GPU: on the CPU a model of {format_count(preset.parameters)} parameters takes hours to days."
        )
    longest = report.longest_characters // BYTES_PER_TOKEN
    if longest > train.max_length:
        found.append(
            f"The longest row has about {longest:,} tokens; what is behind max_length {train.max_length:,} is cut."
        )
    batch = train.micro_batch_size * train.gradient_accumulation_steps
    if report.rows < batch:
        found.append(f"The effective batch of {batch} holds more than the {report.rows} rows there are.")
    elif steps < 10:
        found.append(f"Only {steps} optimizer steps: a smaller effective batch or more epochs teach more.")
    return found


def require_fit(plan: Plan) -> None:
    """Raise `FitError`, with what would make it fit, if memory or disk do not suffice."""
    if not plan.vram.fits:
        kind = "GPU memory" if plan.gpu else "memory"
        raise FitError(
            f"The run does not fit into the {kind}",
            f"needs {format_bytes(plan.vram.needed_bytes)}, {format_bytes(plan.vram.available_bytes)} is free",
            _fit_hints(plan),
        )
    if not plan.disk.fits:
        raise FitError(
            "The run does not fit on the disk",
            f"needs {format_bytes(plan.disk.needed_bytes)}, {format_bytes(plan.disk.available_bytes)} is free "
            f"at {clean_line(str(home()))}",
            ("Free some space, or set FINETUI_HOME to a folder on a larger disk.", *_quant_hint(plan)),
        )


def _fit_hints(plan: Plan) -> list[str]:
    reading = None
    if plan.gpu is not None:
        reading = GpuReading(total_bytes=plan.gpu.total_bytes, free_bytes=plan.gpu.free_bytes)
    missing = plan.vram.needed_bytes - (plan.vram.available_bytes or 0)
    found = advise(plan.preset, reading)
    hints = []
    for advice in found:
        command = " ".join(f"--set {name.partition('.')[2]}={value}" for name, value in advice.changes.items())
        hints.append(f"{advice}{', which is enough' if advice.saved_bytes >= missing else ''}: {command}")
    if sum(advice.saved_bytes for advice in found) < missing:
        hints.append("Take a smaller model: finetui presets shows their sizes.")
    return hints


def _quant_hint(plan: Plan) -> list[str]:
    return ["Make fewer GGUF files: --set quants=Q4_K_M"] if len(plan.export.quants) > 1 else []


def describe(plan: Plan) -> list[tuple[str, str]]:
    """The plan as pairs of a label and a value, for the command line and the screens."""
    train, preset = plan.train, plan.preset
    where = f"{plan.gpu.name}" if plan.gpu else "the CPU"
    here = "on this machine" if is_local(preset) else f"downloads {format_bytes(preset.download_bytes)}"
    warm_up = f"{plan.warmup_steps} of warm-up"
    return [
        ("model", f"{preset.title} · {format_count(preset.parameters)} parameters · {here}"),
        ("licence", " · ".join(filter(None, (preset.licence, preset.licence_note)))),
        ("data", f"{plan.data.path} · {plan.summary.format}"),
        ("rows", f"{plan.summary.rows:,} to learn from, {plan.summary.eval_rows:,} held out"),
        ("tokens", f"about {format_count(plan.summary.approximate_tokens)}, at most {train.max_length:,} a row"),
        ("device", f"{where} · base in {'NF4' if train.quantization == 'nf4' else '16 bits'}"),
        ("adapter", f"rank {plan.lora.rank}, alpha {plan.lora.alpha} on all linear layers"),
        (
            "batch",
            f"{plan.effective_batch} rows: {train.micro_batch_size} × {train.gradient_accumulation_steps} accumulated",
        ),
        ("steps", f"{plan.steps:,}, {warm_up} · {plan.passes:.3g} passes over the rows"),
        ("learning rate", f"{train.learning_rate:g}, {train.lr_scheduler_type}"),
        ("time", time_line(plan)),
        ("memory", budget_line(plan.vram)),
        ("disk", f"{budget_line(plan.disk)} · keeps {format_bytes(keep_bytes(preset, on_cpu=plan.gpu is None))}"),
        ("makes", f"adapter, 16-bit model, GGUF {', '.join(dict.fromkeys(('bf16', *plan.export.quants)))}"),
    ]


def time_line(plan: Plan) -> str:
    """`about 1 h 25 m`, or `n/a`."""
    return "n/a: this card's speed is not known" if plan.seconds is None else f"about {format_duration(plan.seconds)}"


def budget_line(budget: Budget) -> str:
    """`needs 7.4 GiB of 21.4 GiB free ✓`."""
    line = f"needs {format_bytes(budget.needed_bytes)}"
    if budget.available_bytes is None:
        return f"{line}; what is free is not known"
    return f"{line} of {format_bytes(budget.available_bytes)} free {'✓ fits' if budget.fits else '✗ does not fit'}"
