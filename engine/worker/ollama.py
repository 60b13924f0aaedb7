"""Stage "ollama": a Modelfile beside the GGUF file, and the model created in a running Ollama."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.errors import CertificateError, MissingError, UsageError
from engine.ollama import Client, Parameters, modelfile, sha256, valid_name
from engine.runs import slug
from engine.worker.context import Context
from engine.worker.gguf.vocabulary import load_tokenizer
from engine.worker.model_files import read_json
from engine.worker.template import end_of_turn

LONGEST_CONTEXT = 8192
"""Tokens. Ollama reserves memory for the whole context, so a model's full 128k would not fit beside it."""


def run(context: Context) -> None:
    """Create the model. The Modelfile is written first and stays, whatever Ollama says.

    Raises `MissingError` (no GGUF file, no certificate, no Ollama, too old an Ollama), `CertificateError`,
    `UsageError` (the name is taken or cannot be one), `RunError`.
    """
    gguf = _file(context)
    _require_certificate(context, gguf)
    name = valid_name(context.options.name or slug(context.plan.slug or context.plan.preset.name))
    parameters = parameters_for(context)
    with context.writing(context.run.modelfile) as file:
        file.write_text(modelfile(gguf, parameters), "utf-8")
    client = Client()
    context.phase("looking for Ollama")
    version = client.require_version()
    if name in client.list() and not context.options.replace:
        raise UsageError(
            f"Ollama has a model {name!r} already",
            client.url,
            ("Choose another name: --name N", "Or take its place: --replace"),
        )
    context.phase(f"creating {name} in Ollama {version}")
    client.create(name, gguf, parameters, lambda what, done, total: _on_progress(context, what, done, total))
    context.finding("ok", f"Ollama has {name}", f"ollama run {name}")


def _file(context: Context) -> Path:
    """The first of the wanted quantizations."""
    quant = (context.options.quants or context.plan.export.quants)[0]
    file = context.run.gguf(quant)
    if not file.is_file():
        raise MissingError(
            "There is no GGUF file yet", f"{file.name} is missing", (f"finetui gguf {context.run.name}",)
        )
    return file


def _require_certificate(context: Context, gguf: Path) -> None:
    """Refuse a file that is not certified as it lies there now, unless told to go ahead."""
    if context.options.uncertified:
        context.finding("warning", f"{gguf.name} goes to Ollama without a look at its certificate")
        return
    again = (f"finetui certify {context.run.name}", "Or go ahead without: --uncertified")
    if not context.run.certificate.is_file():
        raise CertificateError("This export is not certified", "certificate.json is missing", again)
    form = gguf.name.removeprefix("model.").removesuffix(".gguf")
    found = read_json(context.run.certificate).get("forms", {}).get(form)
    if found is None or not _is_what_was_certified(context, gguf, found):
        raise CertificateError("The certificate is not for this file", f"{gguf.name} was made later", again)
    failed = [check["title"] for check in found["checks"] if not check["passed"]]
    if failed:
        raise CertificateError("The certificate of this file failed", "; ".join(failed), again)


def _is_what_was_certified(context: Context, gguf: Path, found: Mapping[str, Any]) -> bool:
    if found.get("size_bytes") != gguf.stat().st_size:
        return False
    digest = sha256(gguf, lambda what, done, total: _on_progress(context, what, done, total))
    return digest == found.get("sha256")


def parameters_for(context: Context) -> Parameters:
    """Greedy, as it was certified; without a penalty on repetition, which breaks tables and code."""
    parameters: dict[str, str | int | float | list[str]] = {
        "num_ctx": min(context.plan.preset.context_length, LONGEST_CONTEXT),
        "temperature": 0,
        "repeat_penalty": 1.0,
    }
    turn = end_of_turn(context.run.adapter)
    if turn is not None:
        parameters["stop"] = [str(load_tokenizer(context.run.adapter).id_to_token(turn))]
    return parameters


def _on_progress(context: Context, what: str, done: int, total: int) -> None:
    context.check_stop()
    if total:
        context.progress(done, total, "bytes", what)
