"""Stage "gguf": one bf16 GGUF file in one streaming pass, then its quantized forms."""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path

from engine.config import Quant
from engine.plan import Plan
from engine.worker.context import Context
from engine.worker.device import claim
from engine.worker.fold import Folded, Weights, load_adapter
from engine.worker.gguf.families import family_of
from engine.worker.gguf.family import Config, Family
from engine.worker.gguf.probe import choose_pre, describe
from engine.worker.gguf.quantize import quantize
from engine.worker.gguf.vocabulary import Vocabulary, load_tokenizer, read_vocabulary
from engine.worker.gguf.write import Source, write_model
from engine.worker.model import locate
from engine.worker.model_files import read_json


def run(context: Context) -> None:
    """Write `model.bf16.gguf` and a file for each wanted quantization.

    Raises `MissingError` without an adapter, `RunError` for a model that cannot be expressed. A stop is honoured
    between tensors, and at any moment while quantizing.
    """
    claim(context)
    source = _source(context)
    plain = context.run.gguf("bf16")
    with context.writing(plain) as file:
        context.phase("writing the bf16 GGUF file")
        write_model(file, source, lambda done, total: _on_bytes(context, done, total))
    for quant in wanted(context):
        if quant != "bf16":
            _quantize(context, plain, quant)


def wanted(context: Context) -> tuple[Quant, ...]:
    """The files to make: asked for now, else the plan's."""
    return context.options.quants or context.plan.export.quants


def _on_bytes(context: Context, done: int, total: int) -> None:
    context.progress(done, total, "bytes", "bf16")
    context.check_stop()


def _source(context: Context) -> Source:
    adapter = load_adapter(context.run.adapter)
    folder = locate(context)
    config = read_json(folder / "config.json")
    family = family_of(config)
    if _merged_is_current(context):
        context.phase("reading the merged model")
        folded = Folded(Weights(context.run.merged))
    else:
        context.phase("reading the base model and the adapter")
        folded = Folded(Weights(folder), adapter)
    vocabulary = read_vocabulary(folder, _embedding_rows(folded, config), context.run.adapter)
    if vocabulary.template is None:
        context.finding("warning", "The model has no chat template", "Ollama and chat will pass text on as it is.")
    return Source(folded, family, config, vocabulary, _pre(context, folder, vocabulary, family), about(context.plan))


def _merged_is_current(context: Context) -> bool:
    """True if there is a merged folder that is no older than the adapter."""
    index = context.run.merged / "config.json"
    weights = context.run.adapter / "adapter_model.safetensors"
    return index.is_file() and index.stat().st_mtime >= weights.stat().st_mtime


def _embedding_rows(folded: Folded, config: Config) -> int:
    rows = [spec.shape[0] for spec in folded.specs if spec.name.endswith("embed_tokens.weight")]
    return rows[0] if rows else int(config["vocab_size"])


def _pre(context: Context, folder: Path, vocabulary: Vocabulary, family: Family) -> str:
    context.phase("finding the pre-tokenizer by trying")
    with tempfile.TemporaryDirectory(prefix="finetui-") as scratch:
        name, differing = choose_pre(Path(scratch), load_tokenizer(folder), vocabulary, family)
    context.finding("ok", f"llama.cpp tokenizes as the model does, with pre-tokenizer {name}")
    if differing:
        context.finding(
            "warning",
            "Text that is not in Unicode's composed form is tokenized otherwise by llama.cpp",
            f"{describe(differing)}; ordinary keyboards and editors write the composed form.",
        )
    return name


def about(plan: Plan) -> dict[str, str]:
    """What the file says about its making."""
    preset = plan.preset
    settings = {"lora": plan.lora.model_dump(), "train": plan.train.model_dump(), "rows": plan.summary.rows}
    return {
        "general.name": plan.slug or preset.name,
        "general.license": preset.licence,
        "general.description": f"{preset.title}, fine-tuned with finetui",
        "finetui.version": version("finetui"),
        "finetui.base_model": preset.title,
        "finetui.merge_base": "16-bit original",
        "finetui.settings": json.dumps(settings),
    }


def _quantize(context: Context, plain: Path, quant: Quant) -> None:
    context.check_stop()
    context.phase(f"quantizing to {quant}")
    with context.writing(context.run.gguf(quant)) as file:
        told = quantize(
            plain,
            file,
            quant,
            on_tensor=lambda done, total: context.progress(done, total, "tensors", quant),
            check_stop=context.check_stop,
        )
    if told.fallbacks:
        context.finding(
            "warning",
            f"{told.fallbacks} of {told.tensors} tensors are in a larger type than {quant} asks for",
            "Their rows are not a multiple of 256. The file is larger than usual, and no less exact.",
        )
