"""The lines of a certificate: each compares one GGUF file with the trained model, and says what may be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.config import Quant
from engine.datasets.base import Row
from engine.events import Check
from engine.tokens.mask import IGNORED
from engine.tokens.template import Template
from engine.worker.distribution import log_softmax, mean_kl
from engine.worker.llama import LlamaModel
from engine.worker.reference import PREFIX, Reference, Subject, before_answer
from engine.worker.template import template_of

SAME_TOKENS = "prompts give the same token ids"
KNOWN_END = "the end of a turn is known"
STOPS = "it stops"
YOURS = "it is your model, not the base"
SAME_DISTRIBUTION = "same distribution"
SAME_LOSS = "same held-out loss"

KL_LIMITS: dict[Quant, tuple[float, float]] = {
    "bf16": (2e-4, 1e-3), "Q8_0": (0.004, 0.01), "Q6_K": (0.015, 0.04), "Q5_K_M": (0.03, 0.08), "Q5_K_S": (0.04, 0.1),
    "Q4_K_M": (0.08, 0.2), "Q4_K_S": (0.1, 0.25), "Q3_K_M": (0.2, 0.5), "Q2_K": (0.6, 1.5),
}  # fmt: skip
"""Mean KL in nats: from where on it is worth a word, and from where on it is a fault.

bf16: a correct conversion stays below 3e-5 on models in bf16; each known conversion error is above 1e-2. The others
are about six times what llama.cpp measures on Llama 3 8B (tools/perplexity/README.md), since small models lose more.
"""

LEAST_CHANGE = 1e-4
"""Mean KL from the base below which there is nothing to tell the tuned model by."""

MISSED_STOPS = 1
"""Answers that may run on although the trained model's did not: one greedy near-tie can turn an answer."""


@dataclass(frozen=True)
class Examined:
    """What one GGUF file says to the subject."""

    form: Quant
    checks: list[Check]
    kl: float
    warning: str = ""
    """Something that passed and is still worth a word."""


def examine(
    form: Quant, model: LlamaModel, subject: Subject, reference: Reference, on_step: Callable[[int, int], None]
) -> Examined:
    """All lines for one file; `on_step(done, total)` follows and may raise to stop."""
    steps = len(subject.rows) + len(subject.questions)
    said: list[NDArray[np.float32]] = []
    likelihoods: list[NDArray[np.float32]] = []
    for number, (row, places) in enumerate(zip(subject.rows, subject.positions, strict=True), 1):
        every = log_softmax(model.logits(row.input_ids))  # (T, V)
        said.append(every[places])
        likelihoods.append(_of_labels(every, row.labels))
        on_step(number, steps)
    stopped = 0
    for number, question in enumerate(subject.questions, 1):
        stopped += model.generate(question.input_ids, subject.budget).stopped
        on_step(len(subject.rows) + number, steps)
    kl = mean_kl(reference.tuned, said)
    checks = [
        _same_tokens(form, model, subject),
        _known_end(form, model, subject),
        *([] if subject.raw else [_stops(form, stopped, subject, reference)]),
        _yours(form, mean_kl(reference.base, said), subject, reference),
        _same_distribution(form, kl, subject),
        _same_loss(form, -float(np.concatenate(likelihoods).mean(dtype=np.float64)), subject, reference),
    ]
    return Examined(form, checks, kl, _warning(form, kl))


def _of_labels(every: NDArray[np.float32], labels: list[int]) -> NDArray[np.float32]:
    wanted = np.asarray(labels[1:])  # position t predicts label t + 1
    kept = np.flatnonzero(wanted != IGNORED)
    picked: NDArray[np.float32] = every[kept, wanted[kept]]
    return picked


def _same_tokens(form: Quant, model: LlamaModel, subject: Subject) -> Check:
    trained = subject.tokenizer.template
    template = template_of(model, trained.now if trained else None) or Template("")
    differ = sum(
        model.tokenize(_prompt(template, row)) != ids
        for row, ids in zip(subject.held_out, subject.prompts, strict=True)
    )
    tokens = sum(map(len, subject.prompts))
    return Check(
        form=form,
        title=SAME_TOKENS,
        compared=f"{len(subject.held_out)} {subject.unit}, {tokens:,} tokens",
        figure=f"differ {differ}",
        limit="0",
        passed=differ == 0,
        remedy=""
        if differ == 0
        else "The file's chat template or pre-tokenizer is not the training's: make it again from the base's own "
        "tokenizer files (finetui gguf).",
    )


def _prompt(template: Template, row: Row) -> str:
    if row.messages:
        return template.render(before_answer(row.messages), row.tools, prompt=True)
    return row.text[:PREFIX]


def _known_end(form: Quant, model: LlamaModel, subject: Subject) -> Check:
    tokenizer, turn = subject.tokenizer, subject.end_of_turn
    bos, eos = tokenizer.id_of("bos_token"), tokenizer.id_of("eos_token")
    end = eos if turn is None else turn
    wrong = []
    if end is None or not model.is_eog(end):
        wrong.append("does not end an answer")
    if bos is not None and model.bos != bos:
        wrong.append(f"BOS is {model.bos}, not {bos}")
    if eos is not None and not model.is_eog(eos):
        wrong.append(f"EOS {eos} does not end an answer")
    name = tokenizer.name(end) if end is not None else "none"
    return Check(
        form=form,
        title=KNOWN_END,
        compared=f"{name}, id {end}",
        figure="; ".join(wrong) or "ends an answer",
        limit="ends an answer",
        passed=not wrong,
        remedy="The file names other special tokens than the tokenizer: answers would not end." if wrong else "",
    )


def _stops(form: Quant, stopped: int, subject: Subject, reference: Reference) -> Check:
    """Judged against the trained model: an answer that runs on there as well is a fault of training, not of export."""
    least = max(reference.stopped - MISSED_STOPS, min(reference.stopped, 1))
    passed = stopped >= least
    return Check(
        form=form,
        title=STOPS,
        compared=f"{len(subject.questions)} greedy answers",
        figure=f"{stopped} end by themselves",
        limit=f"at least {least} (as trained: {reference.stopped})",
        passed=passed,
        remedy="" if passed else "The end-of-turn token is not an end-of-generation token here, or the weights differ.",
    )


def _yours(form: Quant, distance: float, subject: Subject, reference: Reference) -> Check:
    wanted = max(reference.from_base / 2, LEAST_CHANGE)
    passed = distance >= wanted
    remedy = "The adapter was not folded in: make the file again (finetui gguf)."
    if reference.from_base < LEAST_CHANGE:
        remedy = "Training changed next to nothing: look at the loss; raise the learning rate or the epochs."
    return Check(
        form=form,
        title=YOURS,
        compared=f"{subject.count} positions, mean KL from the base",
        figure=f"{distance:.2g}",
        limit=f"at least {wanted:.2g} (as trained: {reference.from_base:.2g})",
        passed=passed,
        remedy="" if passed else remedy,
    )


def _same_distribution(form: Quant, kl: float, subject: Subject) -> Check:
    limit = KL_LIMITS[form][1]
    passed = kl <= limit
    return Check(
        form=form,
        title=SAME_DISTRIBUTION,
        compared=f"{subject.count} positions, mean KL",
        figure=f"{kl:.2g}",
        limit=f"{limit:.0e}" if limit < 0.01 else f"{limit:g}",
        passed=passed,
        remedy="" if passed else _cause(form, kl),
    )


def _cause(form: Quant, kl: float) -> str:
    if form != "bf16":
        return f"{form} loses too much of this model: export a finer one, for example Q8_0."
    if kl < 0.01:
        return "Near, and not the same: look at the norm's epsilon, rope scaling factors, and the base's revision."
    return (
        "The weights or the position encoding are wrong: another base, a missing head permutation, another rope theta."
    )


def _same_loss(form: Quant, loss: float, subject: Subject, reference: Reference) -> Check:
    allowed = 1.02 * reference.loss + max(0.02, 2 * KL_LIMITS[form][1])
    tokens = sum(row.trained for row in subject.rows)
    passed = tokens == 0 or loss <= allowed
    return Check(
        form=form,
        title=SAME_LOSS,
        compared=f"{tokens:,} tokens of {'text' if subject.raw else 'answers'}",
        figure=f"{loss:.3f}",
        limit=f"{allowed:.3f} (as trained: {reference.loss:.3f})",
        passed=passed,
        remedy="" if passed else "The export answers worse than the trained model: " + _cause(form, 1.0),
    )


def _warning(form: Quant, kl: float) -> str:
    warn, fail = KL_LIMITS[form]
    return f"mean KL {kl:.2g} is above the usual {warn:g}" if warn < kl <= fail else ""
