"""The stage "train": NF4 base + LoRA through TRL, loss on the assistant's tokens only, resumable at any checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config import Preset, TrainSpec
from engine.errors import MissingError, RunError
from engine.families import FAMILIES
from engine.plan import Plan
from engine.text import clean_line
from engine.tokens.tokenizer import Tokenizer
from engine.tokens.verdicts import troubles, will_it_stop
from engine.units import format_bytes
from engine.worker import checkpoint, examples, heldout, lineage, model, probe
from engine.worker.answer import Question, ask, score, stop_tokens
from engine.worker.context import Context, StopRequested
from engine.worker.faults import is_gpu_full
from engine.worker.gpu_watch import watching
from engine.worker.packing import Example
from engine.worker.room import require_room

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
    tokenizer: Tokenizer
    base: Any
    rows: list[Example]
    held_out: list[Example]
    asked: list[Question]
    stops: list[int]

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row to learn from."""
        return [len(row.input_ids) for row in self.rows]


def run(context: Context) -> None:
    """Train the adapter of the run's plan.

    Leaves `heldout.jsonl`, `checkpoints/` and `adapter/`. Raises `DataError` if the data are not those of the plan,
    `MissingError` for a model or GPU that is not there, `RunError` if training fails, `StopRequested` between steps.
    """
    examples.require_planned(context)
    found = _find_checkpoint(context) if context.options.resume else None
    device = model.claim_device(context.plan)
    with watching(context):
        if found is not None:
            probe.remember(context)
        prepared = _prepare(context, device, found)
        trainer, trial = _probed(context, prepared, _make_trainer(context, prepared, found), found)
        if found is None:
            with trainer.model.disable_adapter():
                _score(context, "base", trainer.model, prepared)
        _train(context, trainer, found)
        probe.keep_speed(context, trial, prepared.lengths)
        _write_adapter(context, trainer.model, prepared)
        _score(context, "as trained", trainer.model, prepared)


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
    rows = examples.read(context)
    heldout.write_rows(context.run.heldout, rows.held_out)
    folder = model.find_base(context, found.manifest.base if found is not None else None)
    base_facts = lineage.base_of(folder)
    context.phase("loading the tokenizer")
    tokenizer = model.load_tokenizer(context, folder)
    learned, tally = examples.encode_learned(context, tokenizer, rows)
    held_out, _ = examples.encode_held_out(context, tokenizer, rows.held_out, plan.data.eval_path or plan.data.path)
    context.check_stop()
    require_room(context)
    base = model.load_base(context, folder, device)
    told = examples.findings(context, rows, learned, tally)
    for verdict in (*told, *troubles(tally), *will_it_stop(tokenizer, tally)):
        context.finding(*verdict)
    asked = heldout.askable(context, tokenizer, rows.held_out)[: plan.train.score_rows] if plan.train.score_rows else []
    stops = stop_tokens(tokenizer, base, tally.end_of_turn)
    return Prepared(folder, base_facts, device, tokenizer, base, learned, held_out, asked, stops)


def _make_trainer(context: Context, prepared: Prepared, found: checkpoint.Found | None) -> AdapterTrainer:
    context.phase("setting up the training")
    import torch

    from engine.worker.trainer import trainable

    trainer = _trainer(context, prepared, found, prepared.base, peft_config=_lora(context))
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


def _trainer(
    context: Context, prepared: Prepared, found: checkpoint.Found | None, base: Any, peft_config: Any = None
) -> AdapterTrainer:
    """The trainer of the plan's settings; `base` has its adapter already if there is no `peft_config`."""
    from engine.worker.trainer import AdapterTrainer, HeldOut

    return AdapterTrainer(
        context,
        HeldOut(prepared.held_out, prepared.asked[:SAMPLES], prepared.stops, prepared.tokenizer),
        found.manifest if found is not None else _first_manifest(context, prepared.base_facts),
        model=base,
        args=_arguments(context, prepared.device),
        train_dataset=_dataset(prepared.rows),
        processing_class=model.processing_class(prepared.folder, prepared.tokenizer),
        peft_config=peft_config,
    )


def _probed(
    context: Context,
    prepared: Prepared,
    trainer: AdapterTrainer,
    found: checkpoint.Found | None,
    meter: probe.Meter | None = None,
) -> tuple[AdapterTrainer, probe.Trial | None]:
    """The trainer of settings whose longest batch fits, and what it took (None on the CPU)."""
    lengths, planned = prepared.lengths, context.plan.preset

    def run(preset: Preset) -> None:
        settings = preset.train
        twice = checkpointing(settings, prepared.device) if settings.gradient_checkpointing else None
        trainer.pass_over(probe.longest_rows(lengths, settings.micro_batch_size), twice)

    trial = probe.probe(context, trainer.model, lengths, run, meter)
    if context.plan.preset == planned:
        return trainer, trial
    return _trainer(context, prepared, found, trainer.model), trial


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

    preset, spec = context.plan.preset, context.plan.lora
    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=sorted(FAMILIES[preset.family].linear_shapes(preset.architecture)),
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
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs=checkpointing(settings, device) if settings.gradient_checkpointing else None,
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


def checkpointing(settings: TrainSpec, device: model.Device) -> dict[str, Any]:
    """Which layers are computed twice, as transformers takes it; on the CPU there is nowhere to offload them to."""
    offload = settings.gradient_checkpointing_offload and device == "cuda"
    return {"use_reentrant": False, "every_n_layers": settings.gradient_checkpointing_every, "offload": offload}


def _schedule(settings: TrainSpec) -> str:
    # transformers' own "constant" knows no warm-up.
    return "constant_with_warmup" if settings.lr_scheduler_type == "constant" else settings.lr_scheduler_type


def _dataset(rows: Sequence[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]})


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
        *_mixed_in(plan),
        f"- LoRA: rank {plan.lora.rank}, alpha {plan.lora.alpha}, dropout {plan.lora.dropout}, all linear layers",
        *(f"- {name}: {value}" for name, value in settings.model_dump().items()),
        f"- steps: {plan.steps}, warm-up {plan.warmup_steps}, effective batch {plan.effective_batch}",
    ]
    return f"# {plan.preset.title}, tuned\n\nA LoRA adapter trained with finetui.\n\n" + "\n".join(lines) + "\n"


def _mixed_in(plan: Plan) -> list[str]:
    mixed, name = plan.summary.mix_rows, Path(plan.data.mix_path).name
    return [f"- of these rows mixed in: {mixed} of {name}, SHA-256 {plan.summary.mix_sha256}"] if mixed else []


def _score(context: Context, form: str, subject: Any, prepared: Prepared) -> None:
    asked = prepared.asked
    if not asked:
        return
    context.phase(f"answering {len(asked)} held-out rows ({form})")

    def told(done: int) -> None:
        context.check_stop()
        context.progress(done, len(asked), "rows", f"score {form}")

    context.emit(score(form, asked, ask(subject, prepared.tokenizer, asked, prepared.stops, told)))
