"""Stage "certify": prove that each GGUF file is the model that was trained."""

from __future__ import annotations

import json
import time
from pathlib import Path

from engine.config import QUANTS, Quant
from engine.errors import CertificateError, MissingError
from engine.ollama import sha256
from engine.text import clean_line
from engine.worker.checks import Examined, examine
from engine.worker.context import Context
from engine.worker.device import claim
from engine.worker.llama import LlamaModel
from engine.worker.model import locate
from engine.worker.reference import LONGEST, POSITIONS, Reference, Subject, measure, read_subject


def run(context: Context) -> None:
    """Write `certificate.json`. Raises `CertificateError`, after writing it, if any line failed.

    "As trained" is the base in its 16 bits with the adapter beside it. Training with quantization=nf4 saw the base
    rounded to 4 bits, which no export holds; what that difference does is seen in the scores of the eval stage.
    What it does not cover: long contexts (conversations are cut to 1,024 tokens), sampling, tools, Ollama itself.
    """
    device = claim(context)
    forms = _forms(context)
    if not (context.run.adapter / "adapter_config.json").is_file():
        raise MissingError("There is no trained adapter yet", "adapter/ is missing", ("Train first: finetui train",))
    base = locate(context)
    context.phase("reading the held-out rows")
    subject = read_subject(context, base)
    _say_what_is_compared(context, subject)
    reference = measure(context, base, subject, device)
    if reference.stopped < len(subject.questions) - 1:
        context.finding(
            "warning",
            f"The trained model itself ends only {reference.stopped} of {len(subject.questions)} answers",
            "It needs more training, or the end-of-turn token was not trained.",
        )
    examined = [_examine(context, form, file, subject, reference) for form, file in forms.items()]
    _write(context, forms, examined, reference)
    _judge(examined)


def _forms(context: Context) -> dict[Quant, Path]:
    """The files to certify, bf16 first: those asked for, else all that there are and whose limits are known."""
    there = {quant: context.run.gguf(quant) for quant in QUANTS if context.run.gguf(quant).is_file()}
    for file in context.run.ggufs:
        if file not in there.values():
            title = f"{clean_line(file.name)} is left out of the certificate"
            context.finding("warning", title, f"There are limits for {', '.join(QUANTS)} only.")
    asked = context.options.quants or tuple(there)
    wanted = [quant for quant in QUANTS if quant in (*asked, "bf16")]
    missing = [quant for quant in wanted if quant not in there]
    if missing:
        raise MissingError(
            "There is no GGUF file to certify" if not there else "A GGUF file is not there",
            f"model.{missing[0]}.gguf is missing",
            (f"finetui gguf {context.run.name}",),
        )
    return {quant: there[quant] for quant in wanted}


def _say_what_is_compared(context: Context, subject: Subject) -> None:
    if subject.count < POSITIONS // 2:
        context.finding(
            "warning",
            f"Only {subject.count} positions can be compared",
            "Fewer than 256 make the certificate weak: hold back more rows (data.eval_fraction).",
        )
    if subject.raw:
        detail = "Its beginnings are compared token by token, its loss and distributions as with answers."
        context.finding("ok", "Whether it stops is not tried: raw text asks nothing", detail)
    elif not subject.questions:
        detail = f"Each of the held-out rows looked at is too long for {LONGEST:,} tokens with an answer."
        context.finding("warning", "Whether it stops was not tried", detail)


def _examine(context: Context, form: Quant, file: Path, subject: Subject, reference: Reference) -> Examined:
    context.phase(f"examining {file.name}")

    def on_step(done: int, total: int) -> None:
        context.check_stop()
        context.progress(done, total, subject.unit, form)

    with LlamaModel(file, LONGEST, logits_all=True) as model:
        if model.note:
            context.finding("warning", f"{form}: {model.note}", "The figures are the same; it takes longer.")
        examined = examine(form, model, subject, reference, on_step)
    for check in examined.checks:
        context.emit(check)
    if examined.warning:
        context.finding("warning", f"{form}: {examined.warning}", "Within the limit, and more than most models lose.")
    return examined


def _write(context: Context, forms: dict[Quant, Path], examined: list[Examined], reference: Reference) -> None:
    def on_bytes(what: str, done: int, total: int) -> None:
        context.check_stop()
        context.progress(done, total, "bytes", what)

    context.phase("binding the certificate to the files")
    certificate = {
        "version": 2,
        "created_t": time.time(),
        "passed": all(check.passed for one in examined for check in one.checks),
        "as_trained": {
            "computed": reference.computed,
            "loss": reference.loss,
            "kl_from_base": reference.from_base,
            "stopped": reference.stopped,
        },
        "forms": {
            one.form: {
                "file": forms[one.form].name,
                "size_bytes": forms[one.form].stat().st_size,
                "sha256": sha256(forms[one.form], on_bytes),
                "passed": all(check.passed for check in one.checks),
                "kl": one.kl,
                "checks": [check.model_dump(exclude={"v", "seq", "t", "kind", "form"}) for check in one.checks],
            }
            for one in examined
        },
    }
    with context.writing(context.run.certificate) as file:
        file.write_text(json.dumps(certificate, indent=2) + "\n", "utf-8")


def _judge(examined: list[Examined]) -> None:
    failed = [check for one in examined for check in one.checks if not check.passed]
    if not failed:
        return
    first = failed[0]
    raise CertificateError(
        "The export is not the model that was trained",
        f"{len(failed)} checks failed; {first.form}: {first.title}: {first.figure}, limit {first.limit}",
        tuple(dict.fromkeys(check.remedy for check in failed if check.remedy)),
    )
