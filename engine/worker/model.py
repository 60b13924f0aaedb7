"""The base model: claim the device, find the weights (here, or on the hub), load tokenizer and model."""

from __future__ import annotations

import gc
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from engine.errors import FinetuiError, MissingError
from engine.plan import Plan
from engine.text import clean_line
from engine.tokens.tokenizer import Tokenizer
from engine.worker import download, lineage, text_part
from engine.worker.context import Context

Device = Literal["cuda", "cpu"]

CARRIED = ("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "chat_template*")
"""The tokenizer's files, carried from the base into every folder made from it."""


def claim_device(plan: Plan) -> Device:
    """Make exactly the planned GPU visible, then prove that it is the one torch sees. "cpu" hides every GPU.

    Must come before anything in this process touches CUDA. Raises `MissingError` if the GPU is not there.
    """
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # trl reports each training to the hub otherwise
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if plan.device != "cuda" or plan.gpu is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Threads that spin while they wait lose a multiple of the time when anything else runs on the machine.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        return "cpu"
    if plan.gpu.uuid:
        os.environ["CUDA_VISIBLE_DEVICES"] = plan.gpu.uuid
    import torch

    if not torch.cuda.is_available():
        raise MissingError(
            "The planned GPU cannot be used",
            f"{plan.gpu.name} ({plan.gpu.uuid}) is not visible to torch {torch.__version__}",
            ("`finetui doctor` says what is wrong.", "Plan again to use what this machine has now."),
        )
    _verify_uuid(plan.gpu.uuid, str(getattr(torch.cuda.get_device_properties(0), "uuid", "")))
    return "cuda"


def _verify_uuid(planned: str, seen: str) -> None:
    bare = planned.removeprefix("GPU-")
    # A MIG slice reports its parent's UUID, so only whole GPUs can be compared.
    if planned.startswith("GPU-") and seen and seen.removeprefix("GPU-") != bare:
        raise MissingError(
            "torch sees another GPU than the planned one",
            f"planned {planned}, seen {seen}",
            ("Unset CUDA_VISIBLE_DEVICES and start again.",),
        )


def describe(device: Device) -> str:
    """The device in words, for the phase that begins on it."""
    import torch

    if device == "cpu":
        return f"the CPU, {torch.get_num_threads()} threads"
    return clean_line(torch.cuda.get_device_name(0))


def locate(context: Context) -> Path:
    """The folder of the base that the run's adapter was trained on; without an adapter, of the planned one."""
    return find_base(context, lineage.read(context.run.adapter))


def find_base(context: Context, trained: lineage.Base | None = None) -> Path:
    """The folder of the base's weights: the preset's own, the hub cache's, or downloaded into that cache.

    `trained`: it must be that one, the recorded commit on the hub, and not what the preset's revision means by now.
    Raises what `download.find` raises, `MissingError` for half a folder, `RunError` if the base has changed since the
    training.
    """
    preset = context.plan.preset
    folder = Path(preset.model).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or preset.model.startswith("."):
            raise MissingError("The model's folder is not there", str(folder), ("Check `model` in the preset.",))
        revision = (trained and trained.commit) or preset.revision
        # Of a model that an adapter was trained on, only its identity counts.
        folder = download.find(context, preset.model, revision, preset, compare=trained is None)
    _require_whole(folder)
    if trained is not None:
        lineage.require_same(folder, trained)
    return folder


def _require_whole(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    missing = [name for name in ["config.json", *names] if not (folder / name).is_file()]
    if missing:
        raise MissingError(
            "The model's folder is not whole",
            f"{folder} has no {clean_line(', '.join(missing))}",
            ("finetui reads safetensors weights only; a folder with pickled weights (.bin) must be converted.",),
        )


def load_tokenizer(context: Context, folder: Path) -> Tokenizer:
    """The tokenizer of a model's or adapter's folder; its chat template is told the day of the plan.

    Raises `MissingError` if there is no tokenizer.json or it cannot be loaded.
    """
    return Tokenizer.load(folder, datetime.fromtimestamp(context.plan.created_t))


def processing_class(folder: Path, tokenizer: Tokenizer) -> Any:
    """The same as transformers' object, which trl wants to have for padding; nothing is tokenized with it.

    AutoTokenizer would take a class by the names in the configs, so another one for an adapter's folder than for its
    base; and some of these classes rebuild the tokenizer without parts of its file.
    Raises `MissingError` if it cannot be loaded.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        loaded = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise MissingError("The tokenizer cannot be loaded", clean_line(f"{folder}: {error}", 400)) from error
    loaded.pad_token = tokenizer.pad_token
    return loaded


def load_base(context: Context, folder: Path, device: Device) -> Any:
    """The base model, frozen: in NF4 with double quantization, or in 16 bits, as the plan says; its text part only.

    Computes in bfloat16 on a GPU and in float32 on the CPU, where bfloat16 is no faster and less exact.
    Raises `MissingError` if transformers does not know the architecture or weights are missing, `FinetuiError` if
    nothing was quantized.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = context.plan.train.quantization == "nf4"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    context.phase(f"loading the model {'to NF4 ' if nf4 else ''}on {describe(device)}")
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            str(folder),
            **text_part.loading(folder),
            output_loading_info=True,
            dtype=dtype,
            device_map={"": 0 if device == "cuda" else "cpu"},
            quantization_config=config if nf4 else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError) as error:
        raise MissingError("The model cannot be loaded", clean_line(f"{folder}: {error}", 600)) from error
    if missing := sorted(report["missing_keys"]):  # transformers fills these with random numbers
        detail = f"{folder} has no {clean_line(', '.join(missing[:5]))}"
        raise MissingError("The model's weights are not those that its config.json describes", detail)
    if nf4:
        _require_nf4(context, model)
    return model


def release() -> None:
    """Give the memory of models that nobody holds any more back to the machine, so that llama.cpp can have it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _require_nf4(context: Context, model: Any) -> None:
    from bitsandbytes.nn import Linear4bit

    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    if not layers or any(layer.weight.quant_state.quant_type != "nf4" for layer in layers):
        raise FinetuiError(
            "The model was not quantized",
            f"{len(layers)} linear layers are in 4 bits",
            ("Set train.quantization=none to train it in 16 bits.",),
        )
    for layer in layers:
        # On CPUs with AVX512-BF16 bitsandbytes repacks the weights at the first inference: it rounds their scales
        # to bfloat16 and leaves a layer without a backward pass, so training after an evaluation would be wrong.
        layer.support_avx512bf16_for_cpu = False
    double = sum(bool(layer.weight.quant_state.nested) for layer in layers)
    context.finding("ok", f"{len(layers)} linear layers in NF4", f"{double} of them with double quantization")
