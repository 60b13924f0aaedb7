"""TRL's SFTTrainer with our checkpoints, our held-out loss, and an event for each thing that happens."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl import SFTTrainer

from engine.errors import RunError
from engine.events import Checkpoint, Eval, Sample, Step
from engine.tokens.tokenizer import Tokenizer
from engine.worker import checkpoint, heldout
from engine.worker.answer import Question, ask
from engine.worker.context import Context
from engine.worker.packing import Example


@dataclass(frozen=True)
class HeldOut:
    """What is measured on the way: the loss on `encoded`, and the answers to a few fixed questions."""

    encoded: Sequence[Example]
    samples: Sequence[Question]
    stops: Sequence[int]
    tokenizer: Tokenizer


class Pace(TrainerCallback):
    """Decides after each optimizer step what comes now: evaluate, save, stop."""

    def __init__(self, context: Context, evaluates: bool) -> None:
        self._context = context
        self._evaluates = evaluates
        self.stopped_at: int | None = None
        """The step at which a stop was asked for."""

    def on_step_end(self, _args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        """Between two optimizer steps: the only place where a stop loses nothing."""
        settings, step = self._context.plan.train, state.global_step
        last = step >= state.max_steps
        control.should_evaluate = self._evaluates and (last or step % settings.eval_steps == 0)
        control.should_save = last or step % settings.save_steps == 0
        if self._context.stop_requested() and not last:
            self.stopped_at = step
            control.should_evaluate, control.should_save = False, True
            control.should_training_stop = True
        return control


class AdapterTrainer(SFTTrainer):
    """Trains the adapter; `facts` is the manifest of its checkpoints, with the step of the newest one."""

    def __init__(self, context: Context, held_out: HeldOut, facts: checkpoint.Manifest, **settings: Any) -> None:
        self.context = context
        self.held_out = held_out
        self.facts = facts
        self.pace = Pace(context, evaluates=bool(held_out.encoded))
        self._began = time.monotonic()
        self._step_tokens = 0
        self._trained_tokens = facts.trained_tokens
        super().__init__(callbacks=[self.pace], **settings)
        self.remove_callback(PrinterCallback)  # it prints each step into worker.log

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: Any) -> tuple[list[Any], Any]:
        """The micro-batches of one optimizer step; here a step begins, and its tokens are counted."""
        self._began = time.monotonic()
        samples, trained = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_tokens = sum(int(sample["attention_mask"].sum()) for sample in samples)
        self._trained_tokens += int(trained or 0)
        return samples, trained

    def pass_over(self, rows: Sequence[int], checkpointing: dict[str, Any] | None) -> None:
        """Forward and backward over these rows of the data as a step does it; the gradients stay.

        `checkpointing` says which layers are computed twice, as `activation_checkpointing_kwargs`; None: none.
        """
        try:
            if checkpointing is not None:
                where = {name: checkpointing[name] for name in ("every_n_layers", "offload")}
                rest = {name: value for name, value in checkpointing.items() if name not in where}
                self.model.activation_checkpointing_enable(activation_checkpointing_kwargs=rest, **where)
            self.model.train()
            batch = self._prepare_inputs(self.data_collator([self.train_dataset[row] for row in rows]))
            with self.accelerator.autocast():
                loss = self.compute_loss(self.model, batch)
            self.accelerator.backward(loss)
        finally:
            self._metrics["train"].clear()
            if checkpointing is not None:
                self.model.activation_checkpointing_disable()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002
        """Tell of the optimizer step. Raises `RunError` if it went wrong, before anything can be saved of it."""
        self._metrics["train"].clear()
        if "loss" not in logs:
            return
        loss, norm = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        seconds = time.monotonic() - self._began
        peak = torch.cuda.max_memory_allocated() if self.args.device.type == "cuda" else None
        self.context.emit(
            Step(
                step=self.state.global_step,
                steps=self.state.max_steps,
                epoch=self.state.epoch or 0.0,
                loss=loss,
                lr=float(logs["learning_rate"]),
                grad_norm=norm,
                tokens_per_s=self._step_tokens / seconds,
                step_s=seconds,
                trained_tokens=self._trained_tokens,
                vram_peak_bytes=peak,
            )
        )
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise self._diverged(f"loss {loss}, gradient norm {norm}")

    def _diverged(self, figures: str) -> RunError:
        lower = self.context.plan.train.learning_rate / 2
        kept = (
            f"The newest checkpoint is of step {self.facts.step}." if self.facts.step else "No checkpoint was made yet."
        )
        return RunError(
            "Training diverged",
            f"step {self.state.global_step}: {figures}. Nothing of it was saved. {kept}",
            (f"Start a new run with a lower learning rate: --set train.learning_rate={lower:g}",),
        )

    def evaluate(self, *_arguments: Any, **_settings: Any) -> dict[str, float]:
        """The held-out loss, and what the model answers now."""
        step = self.state.global_step
        found = heldout.loss(self.model, self.held_out.encoded)
        self.context.emit(Eval(step=step, loss=found))
        asked = self.held_out.samples
        for question, answer in zip(
            asked, ask(self.model, self.held_out.tokenizer, asked, self.held_out.stops), strict=True
        ):
            told = Sample(step=step, prompt=question.prompt, answer=answer.text, expected=question.expected)
            self.context.emit(told)
        self.control.should_evaluate = False  # else the end of an epoch evaluates the same step again
        return {"eval_loss": found}

    def _save_checkpoint(self, _model: Any, _trial: Any) -> None:
        require_finite(self.model)
        run, step = self.context.run, self.state.global_step
        self.facts = self.facts.model_copy(update={"step": step, "trained_tokens": self._trained_tokens})
        path, size = checkpoint.write(run, self.facts, self._write_state)
        checkpoint.rotate(run, self.context.plan.train.keep_checkpoints)
        self.context.emit(Checkpoint(step=step, path=f"{run.checkpoints.name}/{path.name}", size_bytes=size))

    def _write_state(self, folder: Path) -> None:
        save_adapter(self.model, folder)
        self._save_optimizer_and_scheduler(str(folder))
        self._save_rng_state(str(folder))
        self.state.save_to_json(str(folder / "trainer_state.json"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Put the saved adapter into the present one; precision and device stay those of the present one."""
        state = load_file(str(Path(resume_from_checkpoint) / "adapter_model.safetensors"))
        expected = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        if state.keys() != expected.keys():
            raise RunError("The checkpoint is of another adapter", resume_from_checkpoint)
        set_peft_model_state_dict(model or self.model, state)


def save_adapter(model: Any, folder: Path) -> None:
    """The adapter's weights and its config, in peft's own form, without a model card."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    """The adapter's weights by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def require_finite(model: Any) -> None:
    """Raise `RunError` if a weight of the adapter is NaN or infinite."""
    for name, weight in trainable(model).items():
        if not bool(torch.isfinite(weight).all()):
            raise RunError(
                "The adapter holds a value that is not a number",
                name,
                ("Start a new run with a lower learning rate; checkpoints made before are whole.",),
            )


def require_learned(model: Any) -> None:
    """Raise `RunError` if the adapter still is what it began as: LoRA's second factors all zero."""
    seconds = [weight for name, weight in trainable(model).items() if "lora_B" in name]
    if not any(bool(weight.any()) for weight in seconds):
        raise RunError(
            "Training did not change the adapter",
            f"all {len(seconds)} second factors are still zero",
            ("Check that learning rate and steps are not 0.",),
        )
