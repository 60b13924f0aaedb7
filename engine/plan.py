"""Preset × data report × GPU reading × overrides → Plan: a frozen value that says what will be done, and if it fits."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from engine import calibration, planner
from engine.config import DatasetSpec, ExportSpec, Frozen, LoraSpec, Preset, TrainSpec
from engine.datasets.report import DatasetReport, TokenStats
from engine.disk import cache_budget, disk_budget, keep_bytes, ram_budget
from engine.errors import DataError, FitError, UsageError
from engine.estimate import training_seconds
from engine.gpu import GpuReading
from engine.paths import absolute, builtin_presets, home
from engine.plan_warnings import plan_warnings
from engine.presets import DATA_FILES, hub_cache, is_local
from engine.text import Text, clean_line
from engine.units import format_bytes, format_count, format_duration, format_share
from engine.vram import UNMEASURED, Budget, Correction, advise, ledger


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
    kind: Literal["chat", "text"] = "chat"
    """chat: answers are learned; text: raw text is learned, packed into sequences of `max_length` tokens."""
    sha256: str
    rows: int
    """Rows to learn from, those that are mixed in included."""
    eval_rows: int
    eval_sha256: str = ""
    """Of the file of held-out rows, if the data name one."""
    gold_rows: int = 0
    """Hand-checked rows, never learned from."""
    gold_sha256: str = ""
    mix_rows: int = 0
    """Of `rows`, those that are mixed in."""
    mix_sha256: str = ""
    approximate_tokens: int
    """Of the rows to learn from: counted where the check tokenized them, else estimated from the length of the text."""


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
    ram: Budget | None = None
    """The machine's own memory beside a GPU; None without one, or for a GPU that this machine does not have."""
    cache: Budget | None = None
    """What is downloaded to a disk of its own; None if `disk` has it."""
    fixed: tuple[str, ...] = ()
    """Settings that were set by hand, with their section: nothing chooses them otherwise."""
    why: Text = ""
    """How the batch is divided and what is computed twice, if it was chosen for this GPU."""
    longest: int | None = None
    """The longest row in tokens, if every row was counted."""
    correction: Correction = UNMEASURED
    """What trainings on this machine changed in `vram`."""
    measured_flops: float | None = None
    """FLOP a second that trainings reached on this machine."""
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
    def files(self) -> dict[str, str]:
        """The files that the run reads, each with its SHA-256 as it was when the plan was made."""
        data, found = self.data, self.summary
        files = {data.path: found.sha256, data.eval_path: found.eval_sha256}
        files |= {data.gold_path: found.gold_sha256, data.mix_path: found.mix_sha256}
        return {path: digest for path, digest in files.items() if path and digest}

    @property
    def examples(self) -> int:
        """Sequences that an epoch goes through: the rows, or what raw text is packed into."""
        return count_examples(self.summary, self.train.max_length)

    @property
    def passes(self) -> float:
        """How often each row is seen: what the steps make of the epochs."""
        return self.steps * self.effective_batch / max(self.examples, 1)

    @property
    def seconds(self) -> float | None:
        """About how long the training takes, without loading and evaluation; None for a card that is not known."""
        tokens = self.summary.approximate_tokens
        name = self.gpu.name if self.gpu else None
        return training_seconds(self.preset, self.examples, tokens, self.steps, name, self.measured_flops)


def make_plan(
    preset: Preset,
    data: DatasetSpec,
    report: DatasetReport,
    gpu: GpuReading | None,
    *,
    slug: str = "",
    fixed: Collection[str] = (),
    disk_free_bytes: int | None = None,
    ram_free_bytes: int | None = None,
) -> Plan:
    """Decide everything that the run will do. `gpu` None: on the CPU, where nothing is chosen.

    `fixed` names the settings that were set by hand (`train.micro_batch_size`); of the others those of
    `planner.CHOSEN` are chosen for the GPU, with the preset's effective batch. What is free is asked now where it is
    not given. A plan that does not fit is returned as well: `require_fit` raises. Raises `DataError` if the report
    refuses the data, `UsageError` for settings that contradict each other.
    """
    require_data(report)
    _require_length(preset)
    stats = report.tokens if report.kind == "chat" else None
    preset, known, why = _chosen(preset, gpu, fixed, stats)
    longest, summary = planner.longest_row(stats), _summary(report)
    examples = count_examples(summary, preset.train.max_length)
    steps = count_steps(preset.train, examples)
    return Plan(
        slug=slug or _slug(preset, data),
        created_t=time.time(),
        preset=preset,
        data=_absolute(data),
        summary=summary,
        device="cpu" if gpu is None else "cuda",
        gpu=None if gpu is None else _choice(gpu),
        vram=ledger(preset, gpu, known, longest),
        disk=disk_budget(preset, on_cpu=gpu is None, free_bytes=disk_free_bytes),
        # A GPU without an identity is one that somebody thinks of: its machine has another memory than this one.
        ram=ram_budget(preset, longest=longest, free_bytes=ram_free_bytes) if gpu is not None and gpu.uuid else None,
        cache=cache_budget(preset),
        fixed=tuple(sorted(fixed)),
        why=why,
        longest=longest,
        correction=known,
        measured_flops=calibration.reached_flops(preset, gpu),
        steps=steps,
        warmup_steps=math.ceil(steps * preset.train.warmup_ratio),
        warnings=plan_warnings(preset, data, report, gpu, examples, steps),
    )


def _chosen(
    preset: Preset, gpu: GpuReading | None, fixed: Collection[str], tokens: TokenStats | None
) -> tuple[Preset, Correction, str]:
    """The preset divided and checkpointed for the GPU, what measurements say to it, and why it is so.

    Measurements hang on the chosen settings: where those of the choice make it too large, it is made anew with them.
    """
    if gpu is None:
        return preset, calibration.correction(preset, gpu), ""
    known = calibration.correction(preset, gpu)
    choice = planner.choose(preset, gpu, fixed=fixed, tokens=tokens, correction=known)
    closer = calibration.correction(choice.preset, gpu)
    if closer.measured and not ledger(choice.preset, gpu, closer, planner.longest_row(tokens)).fits:
        choice = planner.choose(preset, gpu, fixed=fixed, tokens=tokens, correction=closer)
        closer = calibration.correction(choice.preset, gpu)
    return choice.preset, closer, choice.why


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


def count_examples(summary: DataSummary, max_length: int) -> int:
    """Sequences to learn from: a row is one; raw text is packed, so there its tokens decide, not its rows."""
    if summary.kind == "chat":
        return summary.rows
    return math.ceil(summary.approximate_tokens / max_length)


def count_steps(train: TrainSpec, examples: int) -> int:
    """Optimizer steps: as transformers' Trainer counts them, `ceil(epochs × ceil(examples / effective batch))`."""
    if train.max_steps is not None:
        return train.max_steps
    an_epoch = math.ceil(examples / (train.micro_batch_size * train.gradient_accumulation_steps))
    return max(1, math.ceil(an_epoch * train.epochs))


def _slug(preset: Preset, data: DatasetSpec) -> str:
    bundled = Path(data.path).is_relative_to(builtin_presets())
    return preset.name if bundled else Path(data.path).stem


def _absolute(data: DatasetSpec) -> DatasetSpec:
    """The worker runs in the run's folder, so its paths must not hang on where the plan was made."""
    return data.model_copy(update={key: str(absolute(path)) for key in DATA_FILES if (path := getattr(data, key))})


def _summary(report: DatasetReport) -> DataSummary:
    shared = DataSummary.model_fields.keys() - {"approximate_tokens"}
    return DataSummary(**report.model_dump(include=set(shared)), approximate_tokens=_tokens(report))


def _tokens(report: DatasetReport) -> int:
    counted = report.tokens
    if counted is None or not counted.rows:
        return report.approximate_tokens
    return round(counted.tokens / counted.rows * report.rows)


def _choice(gpu: GpuReading) -> GpuChoice:
    name = gpu.name or "a GPU that does not tell its name"
    return GpuChoice(uuid=gpu.uuid or "", name=name, total_bytes=gpu.total_bytes, free_bytes=gpu.free_bytes)


def require_fit(plan: Plan) -> None:
    """Raise `FitError`, with what would make it fit, if the memory of GPU or machine, or a disk, do not suffice."""
    device, disk = "GPU memory" if plan.gpu else "memory", clean_line(str(home()))
    larger = "Free some space, or set FINETUI_HOME to a folder on a larger disk."
    _require("does not fit into the", device, plan.vram, "", fit_hints(plan))
    _require("does not fit into the", "machine's memory", plan.ram, "", _ram_hints(plan))
    _require("does not fit on the", "disk", plan.disk, f" at {disk}", (larger, *_quant_hint(plan)))
    larger = "Free some space there, or set HF_HUB_CACHE to a folder on a larger disk."
    _require(
        "does not fit on the", "disk of the downloads", plan.cache, f" at {clean_line(str(hub_cache()))}", (larger,)
    )


def _require(verb: str, what: str, budget: Budget | None, where: str, hints: Sequence[str]) -> None:
    if budget is None or budget.fits:
        return
    needed, free = format_bytes(budget.needed_bytes), format_bytes(budget.available_bytes)
    raise FitError(f"The run {verb} {what}", f"needs {needed}, {free} is free{where}", hints)


def fit_hints(plan: Plan) -> list[str]:
    """Each single change that would make it need less memory, and whether it would be enough."""
    reading = None
    if plan.gpu is not None:
        reading = GpuReading(total_bytes=plan.gpu.total_bytes, free_bytes=plan.gpu.free_bytes)
    return budget_hints(plan.preset, reading, plan.vram, plan.correction, plan.longest)


def budget_hints(
    preset: Preset, gpu: GpuReading | None, budget: Budget, correction: Correction, longest: int | None
) -> list[str]:
    """The same for a sum of memory that was made with this correction and longest row."""
    missing = budget.needed_bytes - (budget.available_bytes or 0)
    found = advise(preset, gpu, correction, longest)
    hints = []
    for advice in found:
        command = " ".join(f"--set {name.partition('.')[2]}={value}" for name, value in advice.changes.items())
        hints.append(f"{advice}{', which is enough' if advice.saved_bytes >= missing else ''}: {command}")
    if sum(advice.saved_bytes for advice in found) < missing:
        hints.append("Take a smaller model: finetui presets shows their sizes.")
    return hints


def _ram_hints(plan: Plan) -> list[str]:
    offloads = plan.train.gradient_checkpointing and plan.train.gradient_checkpointing_offload
    keep = ["Leave the checkpoints on the GPU: --set gradient_checkpointing_offload=false"] if offloads else []
    return [*keep, "End other programs that hold memory, or take a smaller model."]


def _quant_hint(plan: Plan) -> list[str]:
    return ["Make fewer GGUF files: --set quants=Q4_K_M"] if len(plan.export.quants) > 1 else []


def describe(plan: Plan) -> list[tuple[str, str]]:
    """The plan as pairs of a label and a value, for the command line and the screens."""
    train, preset = plan.train, plan.preset
    where = f"{plan.gpu.name}" if plan.gpu else "the CPU"
    here = "on this machine" if is_local(preset) else f"downloads {format_bytes(preset.download_bytes)}"
    warm_up = f"{plan.warmup_steps} of warm-up"
    micro = train.micro_batch_size
    unit = "rows" if plan.summary.kind == "chat" else "sequences"
    return [
        ("model", f"{preset.title} · {format_count(preset.parameters)} parameters · {here}"),
        ("licence", " · ".join(filter(None, (preset.licence, preset.licence_note)))),
        ("data", f"{plan.data.path} · {plan.summary.format}"),
        ("rows", rows_line(plan.summary)),
        ("tokens", _tokens_line(plan)),
        ("device", f"{where} · base in {'NF4' if train.quantization == 'nf4' else '16 bits'}"),
        ("adapter", f"rank {plan.lora.rank}, alpha {plan.lora.alpha} on all linear layers"),
        ("batch", f"{plan.effective_batch} {unit}: {micro} × {train.gradient_accumulation_steps} accumulated"),
        ("checkpointing", _checkpointing_line(plan)),
        ("steps", f"{plan.steps:,}, {warm_up} · {plan.passes:.3g} passes over the rows"),
        ("learning rate", f"{train.learning_rate:g}, {train.lr_scheduler_type}"),
        ("time", time_line(plan)),
        ("memory", budget_line(plan.vram)),
        *([("machine's memory", budget_line(plan.ram))] if plan.ram else []),
        ("disk", f"{budget_line(plan.disk)} · keeps {format_bytes(keep_bytes(preset, on_cpu=plan.gpu is None))}"),
        *([("downloads", budget_line(plan.cache))] if plan.cache else []),
        ("makes", f"adapter, 16-bit model, GGUF {', '.join(dict.fromkeys(('bf16', *plan.export.quants)))}"),
    ]


def rows_line(summary: DataSummary) -> str:
    """`900 of yours + 100 mixed in (10 %), 40 held out, 200 gold`."""
    learned = f"{summary.rows:,} to learn from"
    if summary.mix_rows:
        share = format_share(summary.mix_rows / summary.rows)
        learned = f"{summary.rows - summary.mix_rows:,} of yours + {summary.mix_rows:,} mixed in ({share})"
    gold = [f"{summary.gold_rows:,} gold"] if summary.gold_rows else []
    return ", ".join([learned, f"{summary.eval_rows:,} held out", *gold])


def _tokens_line(plan: Plan) -> str:
    tokens, most = f"about {format_count(plan.summary.approximate_tokens)}", plan.train.max_length
    if plan.summary.kind == "chat":
        return f"{tokens}, at most {most:,} a row"
    return f"{tokens} of text, packed into about {plan.examples:,} sequences of {most:,}"


def _checkpointing_line(plan: Plan) -> str:
    """`Half of the layers is computed twice. Chosen: 4 × 4 rows to a step, …`."""
    policy = planner.policy_of(plan.preset)
    line = policy.help if policy else f"Every {plan.train.gradient_checkpointing_every}th layer is computed twice."
    return f"{line} Chosen: {plan.why}" if plan.why else line


def time_line(plan: Plan) -> str:
    """`about 1 h 25 m`, or `n/a`."""
    return "n/a: this card's speed is not known" if plan.seconds is None else f"about {format_duration(plan.seconds)}"


def budget_line(budget: Budget) -> str:
    """`needs 7.4 GiB of 21.4 GiB free ✓`."""
    line = f"needs {format_bytes(budget.needed_bytes)}"
    if budget.available_bytes is None:
        return f"{line}; what is free is not known"
    return f"{line} of {format_bytes(budget.available_bytes)} free {'✓ fits' if budget.fits else '✗ does not fit'}"
