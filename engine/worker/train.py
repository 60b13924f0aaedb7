"""The stage "train": NF4 base + LoRA through TRL, loss on the assistant's tokens only, resumable at any checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import TrainSpec
from engine.datasets.base import Row
from engine.datasets.split import split
from engine.errors import DataError, MissingError, RunError
from engine.text import clean_line
from engine.units import format_bytes
from engine.worker import checkpoint, heldout, lineage, model
from engine.worker.answer import Question, ask, score, stop_tokens
from engine.worker.context import Context, StopRequested
from engine.worker.faults import is_gpu_full
from engine.worker.gpu_watch import watching
from engine.worker.tokenize import Encoded, Tally, encode_rows, require_trainable, will_it_stop

if TYPE_CHECKING:
    from engine.worker.trainer import AdapterTrainer

SAMPLES = 2
"""Held-out questions asked at every evaluation."""


@dataclass
class Prepared:
    """Everything that training needs, loaded."""

    folder: Path
    base_facts: lineage.Base
    device: model.Device
    tokenizer: Any
    base: Any
    rows: list[Encoded]
    held_out: list[Encoded]
    asked: list[Question]
    stops: list[int]


def run(context: Context) -> None:
    """Train the adapter of the run's plan.

    Leaves `heldout.jsonl`, `checkpoints/` and `adapter/`. Raises `DataError` if the data are not those of the plan,
    `MissingError` for a model or GPU that is not there, `RunError` if training fails, `StopRequested` between steps.
    """
    _require_planned_data(context)
    found = _find_checkpoint(context) if context.options.resume else None
    device = model.claim_device(context.plan)
    with watching(context):
        prepared = _prepare(context, device, found)
        trainer = _make_trainer(context, prepared, found)
        if found is None:
            with trainer.model.disable_adapter():
                _score(context, "base", trainer.model, prepared)
        _train(context, trainer, found)
        _write_adapter(context, trainer.model, prepared)
        _score(context, "as trained", trainer.model, prepared)


def _require_planned_data(context: Context) -> None:
    context.phase("checking that the data are those of the plan")
    plan = context.plan
    _require_planned(Path(plan.data.path), plan.summary.sha256)
    if plan.data.eval_path and plan.summary.eval_sha256:
        _require_planned(Path(plan.data.eval_path), plan.summary.eval_sha256)


def _require_planned(path: Path, planned: str) -> None:
    try:
        seen = checkpoint.sha256(path)
    except OSError as error:
        raise DataError("The data cannot be read", f"{path}: {error.strerror}", ("Put the file back.",)) from error
    if seen != planned:
        raise DataError(
            "The data have changed since the plan was made",
            f"{path}: SHA-256 {seen[:12]}…, planned {planned[:12]}…",
            ("Put the planned file back to go on with this run.", "Or plan and start a new run on the new data."),
        )


def _find_checkpoint(context: Context) -> checkpoint.Found | None:
    found, skipped = checkpoint.newest(context.run, checkpoint.sha256(context.run.plan), context.plan.summary.sha256)
    for reason in skipped:
        context.finding("warning", "A checkpoint was skipped", reason)
    if found is None:
        context.finding("warning", "There is no checkpoint to resume from", "Training begins anew.")
    else:
        context.finding("ok", f"Resumed from checkpoint {found.manifest.step}", "Every file has its recorded hash.")
    return found


def _prepare(context: Context, device: model.Device, found: checkpoint.Found | None) -> Prepared:
    plan = context.plan
    rows, kept = split(plan.data, plan.train.seed)
    heldout.write_rows(context.run.heldout, kept)
    folder = model.find_base(context, found.manifest.base if found is not None else None)
    base_facts = lineage.base_of(folder)
    context.phase("loading the tokenizer")
    tokenizer = model.load_tokenizer(folder)
    encoded, tally = _tokenize(context, tokenizer, rows, plan.data.path)
    require_trainable(tally, plan.train.max_length, plan.data.path)
    held_out, _ = _tokenize(context, tokenizer, kept, plan.data.eval_path or plan.data.path)
    context.check_stop()
    base = model.load_base(context, folder, device)
    configured = stop_tokens(tokenizer, base, None)
    for level, title, detail in [*_cuts(tally, plan.train), *will_it_stop(tokenizer, configured, tally)]:
        context.finding(level, title, detail)
    asked = heldout.askable(context, tokenizer, kept)[: plan.train.score_rows] if plan.train.score_rows else []
    stops = stop_tokens(tokenizer, base, tally.end_of_turn)
    return Prepared(folder, base_facts, device, tokenizer, base, encoded, held_out, asked, stops)


def _tokenize(context: Context, tokenizer: Any, rows: Sequence[Row], path: str) -> tuple[list[Encoded], Tally]:
    context.phase(f"tokenizing {len(rows):,} rows")
    tally = Tally()

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(rows), "rows", "tokenize")

    file = Path(path).name
    batches = encode_rows(tokenizer, rows, context.plan.train.max_length, tally, file, told)
    return [encoded for batch in batches for encoded in batch], tally


def _cuts(tally: Tally, settings: TrainSpec) -> list[tuple[Any, str, str]]:
    share = f"{tally.trained:,} of {tally.tokens:,} tokens are trained: the assistant's answers"
    found: list[tuple[Any, str, str]] = [("ok", f"{tally.rows - tally.dropped:,} rows are trained on", share)]
    if tally.truncated:
        detail = f"The longest has {tally.longest:,} tokens. {tally.dropped:,} rows have no answer left and are unused."
        found.append(("warning", f"{tally.truncated:,} rows were cut to {settings.max_length:,} tokens", detail))
    if tally.straddling:
        detail = "Such a token belongs to the prompt and to the answer, and is not trained."
        found.append(("warning", f"{tally.straddling:,} tokens reach across the beginning of an answer", detail))
    return found


def _make_trainer(context: Context, prepared: Prepared, found: checkpoint.Found | None) -> AdapterTrainer:
    context.phase("setting up the training")
    import torch

    from engine.worker.trainer import AdapterTrainer, HeldOut, trainable

    trainer = AdapterTrainer(
        context,
        HeldOut(prepared.held_out, prepared.asked[:SAMPLES], prepared.stops),
        found.manifest if found is not None else _first_manifest(context, prepared.base_facts),
        model=prepared.base,
        args=_arguments(context, prepared.device),
        train_dataset=_dataset(prepared.rows),
        processing_class=prepared.tokenizer,
        peft_config=_lora(context),
    )
    config = trainer.model.peft_config["default"]
    config.base_model_name_or_path, config.revision = context.plan.preset.model, prepared.base_facts.commit
    weights = trainable(trainer.model)
    if prepared.device == "cpu":
        for weight in weights.values():  # trl casts them to bfloat16 for a quantized base
            weight.data = weight.data.to(torch.float32)
    count = sum(weight.numel() for weight in weights.values())
    detail = f"rank {context.plan.lora.rank}, {len(weights) // 2} linear layers, {next(iter(weights.values())).dtype}"
    context.finding("ok", f"{count:,} weights are trained", detail)
    return trainer


def _first_manifest(context: Context, base: lineage.Base) -> checkpoint.Manifest:
    return checkpoint.Manifest(
        step=0,
        trained_tokens=0,
        plan_sha256=checkpoint.sha256(context.run.plan),
        data_sha256=context.plan.summary.sha256,
        base=base,
        versions={name: version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
    )


def _lora(context: Context) -> Any:
    from peft import LoraConfig

    spec = context.plan.lora
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _arguments(context: Context, device: model.Device) -> Any:
    from trl import SFTConfig

    plan, settings = context.plan, context.plan.train
    return SFTConfig(
        output_dir=str(context.run.checkpoints),
        max_steps=plan.steps,
        warmup_steps=plan.warmup_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=_schedule(settings),
        weight_decay=settings.weight_decay,
        per_device_train_batch_size=settings.micro_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        optim=settings.optimizer,
        max_grad_norm=settings.max_grad_norm,
        max_length=None,  # rows are cut already
        packing=False,
        seed=settings.seed,
        data_seed=settings.seed,
        bf16=device == "cuda",
        use_cpu=device == "cpu",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would show NaN as 0.0
        eval_strategy="no",  # Pace decides when to evaluate and to save
        save_strategy="no",
        dataloader_num_workers=0,
        dataloader_pin_memory=device == "cuda",
        disable_tqdm=True,
        report_to="none",
    )


def _schedule(settings: TrainSpec) -> str:
    # transformers' own "constant" knows no warm-up.
    return "constant_with_warmup" if settings.lr_scheduler_type == "constant" else settings.lr_scheduler_type


def _dataset(rows: Sequence[Encoded]) -> Any:
    import numpy as np
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [np.asarray(row.input_ids, np.int32) for row in rows],
            "labels": [np.asarray(row.labels, np.int32) for row in rows],
        }
    )


def _train(context: Context, trainer: AdapterTrainer, found: checkpoint.Found | None) -> None:
    context.check_stop()
    if found is None:
        shutil.rmtree(context.run.checkpoints, ignore_errors=True)  # of an earlier start that was not resumed
    elif found.manifest.step >= context.plan.steps:  # transformers would take one step more, and change the weights
        trainer._load_from_checkpoint(str(found.path))
        return
    context.phase(f"training on {model.describe('cuda' if context.plan.device == 'cuda' else 'cpu')}")
    try:
        trainer.train(resume_from_checkpoint=str(found.path) if found is not None else None)
    except RuntimeError as error:
        if not is_gpu_full(error):
            raise
        raise _out_of_memory(context, str(error)) from error
    stopped_at = trainer.pace.stopped_at
    if stopped_at is not None:
        raise StopRequested(f"checkpoint {stopped_at} is saved", stopped_at)


def _out_of_memory(context: Context, words: str) -> RunError:
    settings = context.plan.train
    hints = [f"Halve the row length: --set train.max_length={settings.max_length // 2}"]
    if settings.micro_batch_size > 1:
        doubled = settings.gradient_accumulation_steps * settings.micro_batch_size
        change = f"--set train.micro_batch_size=1 --set train.gradient_accumulation_steps={doubled}"
        hints.insert(0, f"Take one row at a time, with the same effective batch: {change}")
    if not settings.gradient_checkpointing:
        hints.insert(0, "--set train.gradient_checkpointing=true")
    planned = f"the plan expected {format_bytes(context.plan.vram.needed_bytes)}"
    return RunError("The GPU's memory is full", f"{planned}; {clean_line(words, 300)}", hints)


def _write_adapter(context: Context, trained: Any, prepared: Prepared) -> None:
    from engine.worker.trainer import require_finite, require_learned, save_adapter

    context.phase("writing the adapter")
    require_finite(trained)
    require_learned(trained)
    with context.writing(context.run.adapter) as partial:
        partial.mkdir()
        save_adapter(trained, partial)
        lineage.write(partial, prepared.base_facts)
        carry_tokenizer(prepared.folder, partial)
        (partial / "README.md").write_text(_card(context, prepared.base_facts), "utf-8")


def carry_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files as they are. Raises `MissingError` if there are none."""
    files = {file for pattern in model.CARRIED for file in source.glob(pattern) if file.is_file()}
    if not files:
        raise MissingError("The base has no tokenizer files", str(source))
    for file in files:
        shutil.copyfile(file, target / file.name)


def _card(context: Context, base: lineage.Base) -> str:
    plan, settings = context.plan, context.plan.train
    lines = [
        f"- base: {plan.preset.model} ({base.commit or 'local folder'}), {plan.preset.licence}",
        f"- data: {Path(plan.data.path).name}, {plan.summary.rows} rows, SHA-256 {plan.summary.sha256}",
        f"- LoRA: rank {plan.lora.rank}, alpha {plan.lora.alpha}, dropout {plan.lora.dropout}, all linear layers",
        *(f"- {name}: {value}" for name, value in settings.model_dump().items()),
        f"- steps: {plan.steps}, warm-up {plan.warmup_steps}, effective batch {plan.effective_batch}",
    ]
    return f"# {plan.preset.title}, tuned\n\nA LoRA adapter trained with finetui.\n\n" + "\n".join(lines) + "\n"


def _score(context: Context, form: str, subject: Any, prepared: Prepared) -> None:
    asked = prepared.asked
    if not asked:
        return
    context.phase(f"answering {len(asked)} held-out rows ({form})")

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(asked), "rows", f"score {form}")

    context.emit(score(form, asked, ask(subject, prepared.tokenizer, asked, prepared.stops, told)))
